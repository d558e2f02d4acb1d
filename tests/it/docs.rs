//! The API's description of itself.

use std::collections::BTreeSet;

use beckon::error::Code;
use serde_json::Value;

use crate::support::{Answer, Client, TestApp};

/// Where a page may lead at most before it is there.
const HOPS_MAX: usize = 3;

/// A page, by way of its redirects, and where it really is.
fn page(client: &Client, path: &str) -> (String, Answer) {
    let mut path = path.to_owned();
    for _ in 0..HOPS_MAX {
        let answer = client.get(&path);
        if !(300..400).contains(&answer.status) {
            return (path, answer);
        }
        let target = answer.header("location").to_owned();
        path = resolved(&path, &target);
    }
    panic!("{path} leads nowhere");
}

/// A link of a page, as a path.
fn resolved(page: &str, link: &str) -> String {
    if link.starts_with('/') {
        return link.to_owned();
    }
    let folder = page.rfind('/').map_or("/", |end| &page[..=end]);
    format!("{folder}{}", link.trim_start_matches("./"))
}

fn links(html: &str) -> Vec<String> {
    ["src=\"", "href=\""]
        .iter()
        .flat_map(|attribute| html.split(attribute).skip(1))
        .filter_map(|rest| rest.split('"').next())
        .filter(|link| !link.starts_with('#') && !link.starts_with("data:"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_page_needs_nothing_from_elsewhere() {
    let app = TestApp::start();
    let nobody = app.nobody();
    let (path, answer) = page(&nobody, "/docs");
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.header("content-type").starts_with("text/html"));
    let html = answer.text();
    let links = links(&html);
    assert!(links.iter().any(|link| link.contains(".js")), "{html}");
    for link in links {
        assert!(!link.contains("//"), "{link} is elsewhere");
        let target = resolved(&path, &link);
        let asset = nobody.get(&target);
        assert_eq!(asset.status, 200, "{target}");
        assert!(!asset.body.is_empty(), "{target}");
    }
}

fn operations(document: &Value) -> Vec<(String, &Value)> {
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in ["get", "put", "post", "delete", "patch"] {
            if let Some(operation) = item.get(method) {
                found.push((format!("{method} {path}"), operation));
            }
        }
    }
    found
}

#[test]
fn the_document_is_openapi_3_1_and_whole() {
    let app = TestApp::start();
    let answer = app.nobody().get("/openapi.json");
    let document = answer.expect(200);
    assert!(
        document["openapi"].as_str().unwrap().starts_with("3.1"),
        "{}",
        document["openapi"]
    );
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    let operations = operations(&document);
    assert!(operations.len() > 40, "{}", operations.len());
    let mut ids = BTreeSet::new();
    for (name, operation) in &operations {
        let id = operation["operationId"].as_str().unwrap_or_default();
        let is_verb_resource = id.contains('_')
            && id.chars().all(|letter| {
                letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_'
            });
        assert!(is_verb_resource, "{name}: {id:?}");
        assert!(ids.insert(id), "{name}: {id} is there twice");
        let responses = operation["responses"].as_object().unwrap();
        assert!(
            responses.keys().any(|status| status.starts_with('2')),
            "{name}: {responses:?}"
        );
        let described = operation["summary"].is_string() || operation["description"].is_string();
        assert!(described, "{name} is not described");
    }
}

#[test]
fn every_code_is_in_the_document() {
    let app = TestApp::start();
    let text = app.nobody().get("/openapi.json").text();
    let missing: Vec<&str> = Code::ALL
        .iter()
        .map(|code| code.as_str())
        .filter(|code| !text.contains(&format!("\"{code}\"")))
        .collect();
    assert!(missing.is_empty(), "not documented: {missing:?}");
}

#[test]
fn every_reference_in_the_document_leads_somewhere() {
    let app = TestApp::start();
    let document = app.nobody().get("/openapi.json").expect(200);
    let mut found = 0;
    let mut waiting = vec![&document];
    while let Some(value) = waiting.pop() {
        match value {
            Value::Object(members) => {
                if let Some(reference) = members.get("$ref").and_then(Value::as_str) {
                    let pointer = reference.strip_prefix('#').unwrap();
                    assert!(document.pointer(pointer).is_some(), "{reference}");
                    found += 1;
                }
                waiting.extend(members.values());
            }
            Value::Array(items) => waiting.extend(items),
            _ => {}
        }
    }
    assert!(found > 0);
}

/// A change of the document is a change of the contract, so it is looked at before it is accepted
/// (`INSTA_UPDATE=always cargo test --test it the_document_is_as`, then read the diff).
#[test]
fn the_document_is_as_it_was_accepted() {
    let document = serde_json::to_value(beckon::http::openapi::document()).unwrap();
    insta::assert_json_snapshot!("openapi", document);
}
