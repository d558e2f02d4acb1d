//! Who may call what: every operation of the OpenAPI document with every sort of key.
//!
//! The document says which operations there are, [`ROWS`] says who may call them. An operation
//! without a row fails, and so does a row without an operation.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::sql::{self, KeyRow, default_project};
use crate::support::{ADMIN_KEY, Answer, CLIENT_KEY, TestApp};

/// Somebody whom only the default project knows: the calls of the matrix track others.
const PERSON: &str = "u-matrix";

/// Who may call an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    /// Anybody, whatever key they show.
    Public,
    /// Scopes `client` and `admin`.
    Client,
    /// Scopes `read` and `admin`.
    Read,
    /// Scope `admin`.
    Admin,
    /// Whoever names a good key in the path; headers do not matter.
    KeyInAddress,
}

/// What the path names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Object {
    /// Nothing that belongs to a project.
    Nothing,
    /// A flag, which reads as off where it does not exist.
    Flag,
    /// An object that is missing in every other project.
    Campaign,
    Segment,
    Person,
    Key,
    RejectedEvent,
    /// The caller's key.
    WriteKey,
}

/// One operation.
struct Row {
    operation: &'static str,
    access: Access,
    object: Object,
    body: &'static str,
    /// The status for those who may.
    good: u16,
}

const fn row(
    operation: &'static str,
    access: Access,
    object: Object,
    body: &'static str,
    good: u16,
) -> Row {
    Row {
        operation,
        access,
        object,
        body,
        good,
    }
}

use Access::{Admin, KeyInAddress, Public, Read};
use Object::{Campaign, Flag, Key, Nothing, Person, RejectedEvent, Segment, WriteKey};

const SEGMENT_TRACK: &str = r#"{"userId":"u","event":"e"}"#;
const SEGMENT_USER: &str = r#"{"userId":"u","traits":{}}"#;
const SEGMENT_GROUP: &str = r#"{"userId":"u","groupId":"g"}"#;
const SEGMENT_ALIAS: &str = r#"{"userId":"u","previousId":"v"}"#;
const SEGMENT_BATCH: &str = r#"{"batch":[{"type":"track","userId":"u","event":"e"}]}"#;

const ROWS: [Row; 59] = [
    row("POST /v1/admin/explain", Read, Nothing, "{}", 200),
    row(
        "POST /v1/admin/campaigns/replay",
        Admin,
        Nothing,
        r#"{"campaign":{"trigger":"e"}}"#,
        200,
    ),
    row("GET /metrics", Read, Nothing, "", 200),
    row("GET /livez", Public, Nothing, "", 200),
    row("GET /readyz", Public, Nothing, "", 200),
    row("GET /v1/health", Public, Nothing, "", 200),
    row(
        "POST /v1/track",
        Access::Client,
        Nothing,
        SEGMENT_TRACK,
        200,
    ),
    row(
        "POST /v1/identify",
        Access::Client,
        Nothing,
        SEGMENT_USER,
        200,
    ),
    row("POST /v1/page", Access::Client, Nothing, SEGMENT_USER, 200),
    row(
        "POST /v1/screen",
        Access::Client,
        Nothing,
        SEGMENT_USER,
        200,
    ),
    row(
        "POST /v1/group",
        Access::Client,
        Nothing,
        SEGMENT_GROUP,
        200,
    ),
    row(
        "POST /v1/alias",
        Access::Client,
        Nothing,
        SEGMENT_ALIAS,
        200,
    ),
    row("POST /v1/t", Access::Client, Nothing, SEGMENT_TRACK, 200),
    row("POST /v1/i", Access::Client, Nothing, SEGMENT_USER, 200),
    row("POST /v1/p", Access::Client, Nothing, SEGMENT_USER, 200),
    row("POST /v1/s", Access::Client, Nothing, SEGMENT_USER, 200),
    row("POST /v1/g", Access::Client, Nothing, SEGMENT_GROUP, 200),
    row("POST /v1/a", Access::Client, Nothing, SEGMENT_ALIAS, 200),
    row("POST /v1/m", Public, Nothing, r#"{"series":[]}"#, 200),
    row(
        "POST /v1/batch",
        Access::Client,
        Nothing,
        SEGMENT_BATCH,
        200,
    ),
    row(
        "POST /v1/import",
        Access::Client,
        Nothing,
        SEGMENT_BATCH,
        200,
    ),
    row("POST /v1/b", Access::Client, Nothing, SEGMENT_BATCH, 200),
    row(
        "POST /beacon/v1/batch",
        Access::Client,
        Nothing,
        SEGMENT_BATCH,
        200,
    ),
    row(
        "POST /v1/leads",
        Access::Client,
        Nothing,
        r#"{"leads":[{"external_id":"e"}]}"#,
        200,
    ),
    row(
        "POST /v1/analytics/track",
        Access::Client,
        Nothing,
        SEGMENT_TRACK,
        200,
    ),
    row(
        "POST /v1/analytics/identify",
        Access::Client,
        Nothing,
        SEGMENT_USER,
        200,
    ),
    row("GET /v1/campaigns", Access::Client, Nothing, "", 200),
    row("GET /v1/features/{key}", Access::Client, Flag, "", 200),
    row(
        "GET /v1/features/{key}/value",
        Access::Client,
        Flag,
        "",
        200,
    ),
    row(
        "GET /v1/features/{key}/payload",
        Access::Client,
        Flag,
        "",
        200,
    ),
    row(
        "GET /v1/projects/{key}/settings",
        KeyInAddress,
        WriteKey,
        "",
        200,
    ),
    row("GET /sourceConfig/", Access::Client, Nothing, "", 200),
    row("GET /v1/admin/campaigns", Read, Nothing, "", 200),
    row(
        "POST /v1/admin/campaigns",
        Admin,
        Nothing,
        r#"{"name":"n"}"#,
        201,
    ),
    row(
        "POST /v1/admin/campaigns/validate",
        Admin,
        Nothing,
        r#"{"name":"n"}"#,
        200,
    ),
    row("GET /v1/admin/campaigns/{id}", Read, Campaign, "", 200),
    row(
        "PUT /v1/admin/campaigns/{id}",
        Admin,
        Campaign,
        r#"{"name":"m"}"#,
        200,
    ),
    row("DELETE /v1/admin/campaigns/{id}", Admin, Campaign, "", 200),
    row("GET /v1/admin/segments", Read, Nothing, "", 200),
    row(
        "POST /v1/admin/segments",
        Admin,
        Nothing,
        r#"{"name":"n"}"#,
        201,
    ),
    row("GET /v1/admin/segments/{id}", Read, Segment, "", 200),
    row(
        "PUT /v1/admin/segments/{id}",
        Admin,
        Segment,
        r#"{"name":"m"}"#,
        200,
    ),
    row("DELETE /v1/admin/segments/{id}", Admin, Segment, "", 200),
    row("GET /v1/admin/users", Read, Nothing, "", 200),
    row("GET /v1/admin/users/{id}", Read, Person, "", 200),
    row("GET /v1/admin/users/{id}/events", Read, Person, "", 200),
    row("GET /v1/admin/events", Read, Nothing, "", 200),
    row("GET /v1/admin/features", Read, Nothing, "", 200),
    row(
        "POST /v1/admin/features",
        Admin,
        Nothing,
        r#"{"key":"other"}"#,
        200,
    ),
    row("GET /v1/admin/keys", Read, Nothing, "", 200),
    row(
        "POST /v1/admin/keys",
        Admin,
        Nothing,
        r#"{"name":"n","scope":"client"}"#,
        201,
    ),
    row("DELETE /v1/admin/keys/{id}", Admin, Key, "", 200),
    row("GET /v1/admin/rejected", Read, Nothing, "", 200),
    row("GET /v1/admin/rejected/{id}", Read, RejectedEvent, "", 200),
    row("POST /v1/admin/rejected/replay", Admin, Nothing, "", 200),
    row(
        "POST /v1/admin/rejected/{id}/replay",
        Admin,
        RejectedEvent,
        "",
        200,
    ),
    row("GET /v1/admin/ledger", Read, Nothing, "", 200),
    row("GET /v1/analytics/overview", Read, Nothing, "", 200),
    row("GET /v1/analytics/campaigns/{id}", Read, Campaign, "", 200),
];

/// One sort of caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Caller {
    NoKey,
    BadKey,
    Revoked,
    Expired,
    Client,
    Read,
    Admin,
    OtherProject,
}

const CALLERS: [(Caller, &str); 8] = [
    (Caller::NoKey, ""),
    (Caller::BadKey, "nobody_knows_this_key_0123456789"),
    (Caller::Revoked, "revoked_admin_key_0123456789"),
    (Caller::Expired, "expired_admin_key_0123456789"),
    (Caller::Client, CLIENT_KEY),
    (Caller::Read, "reading_key_0123456789"),
    (Caller::Admin, ADMIN_KEY),
    (
        Caller::OtherProject,
        "admin_key_of_another_project_0123456789",
    ),
];

/// What a caller must get: a status, and the code where it is a refusal.
fn expected(row: &Row, caller: Caller) -> (u16, Option<&'static str>) {
    let good = (row.good, None);
    let missing = (404, Some("not_found"));
    let forbidden = (403, Some("forbidden"));
    let is_others = !matches!(row.object, Nothing | Flag | WriteKey);
    match (row.access, caller) {
        (Public | KeyInAddress, _) | (_, Caller::Admin) => good,
        (_, Caller::NoKey) => (401, Some("missing_key")),
        (_, Caller::BadKey | Caller::Revoked | Caller::Expired) => (401, Some("invalid_key")),
        (Access::Client, Caller::Client) | (Read, Caller::Read) => good,
        (Access::Client, Caller::Read) | (Read | Admin, Caller::Client) | (Admin, Caller::Read) => {
            forbidden
        }
        (_, Caller::OtherProject) if is_others => missing,
        (_, Caller::OtherProject) => good,
    }
}

fn start() -> TestApp {
    TestApp::prepared(&[], |sql| {
        let project = default_project(sql);
        let other = sql::project(sql, "other");
        for (caller, secret) in CALLERS {
            let mut key = KeyRow::good(project, "admin", secret);
            match caller {
                Caller::NoKey | Caller::BadKey | Caller::Client | Caller::Admin => continue,
                Caller::Revoked => key.revoked_at = "now() - interval '1 day'",
                Caller::Expired => key.expires_at = "now() - interval '1 day'",
                Caller::Read => key.scope = "read",
                Caller::OtherProject => key.project = other,
            }
            key.insert(sql);
        }
    })
}

/// The operations of the document, as `METHOD /path`.
fn operations(app: &TestApp) -> BTreeSet<String> {
    let document = app.nobody().get("/openapi.json").expect(200);
    let paths = document["paths"].as_object().unwrap();
    let mut found = BTreeSet::new();
    for (path, item) in paths {
        for method in ["get", "put", "post", "delete", "patch", "head", "options"] {
            if item.get(method).is_some() {
                found.insert(format!("{} {path}", method.to_uppercase()));
            }
        }
    }
    found
}

/// A path of this operation whose object exists, for the caller to try.
fn path_of(app: &TestApp, row: &Row, unique: usize) -> String {
    let template = row.operation.split_once(' ').unwrap().1;
    let made = |path: &str| {
        let name = json!({"name": format!("made {unique}")});
        let answer = app.admin().post(path, &name).expect(201);
        answer["id"].as_str().unwrap().to_owned()
    };
    let id = match row.object {
        Nothing => String::new(),
        Flag => "flag".to_owned(),
        Campaign => made("/v1/admin/campaigns"),
        Segment => made("/v1/admin/segments"),
        Person => PERSON.to_owned(),
        Key => {
            let mut sql = app.sql();
            let project = default_project(&mut sql);
            let secret = format!("to_be_revoked_{unique}_0123456789");
            KeyRow::good(project, "client", &secret).insert(&mut sql);
            sql::number(&mut sql, "SELECT max(id) FROM api_keys").to_string()
        }
        RejectedEvent => {
            let bad = json!({"user_id": PERSON, "event": "", "event_id": format!("bad {unique}")});
            app.client().post("/v1/track", &bad).expect(200);
            sql::number(&mut app.sql(), "SELECT max(id) FROM rejected_events").to_string()
        }
        WriteKey => CLIENT_KEY.to_owned(),
    };
    template.replace("{id}", &id).replace("{key}", &id)
}

fn call(app: &TestApp, row: &Row, path: &str, key: &str) -> Answer {
    let method = row.operation.split_once(' ').unwrap().0;
    let mut headers = Vec::new();
    if !key.is_empty() {
        headers.push(("x-api-key", key));
    }
    let body = (!row.body.is_empty()).then_some(row.body.as_bytes());
    if body.is_some() {
        headers.push(("content-type", "application/json"));
    }
    app.nobody().send(method, path, &headers, body)
}

#[test]
fn every_route_admits_exactly_whom_it_should() {
    let app = start();
    let operations = operations(&app);
    let rows: BTreeSet<String> = ROWS.iter().map(|row| row.operation.to_owned()).collect();
    assert_eq!(rows.len(), ROWS.len(), "an operation stands in two rows");
    let without_row: Vec<_> = operations.difference(&rows).collect();
    let without_route: Vec<_> = rows.difference(&operations).collect();
    assert!(
        without_row.is_empty() && without_route.is_empty(),
        "without a row: {without_row:?}; without a route: {without_route:?}"
    );

    let person = json!({"user_id": PERSON, "event": "e"});
    app.admin().post("/v1/track", &person).expect(200);
    let flag = json!({"key": "flag", "value": 1});
    app.admin().post("/v1/admin/features", &flag).expect(200);
    let mut problems = Vec::new();
    for (number, row) in ROWS.iter().enumerate() {
        for (place, (caller, key)) in CALLERS.into_iter().enumerate() {
            let path = path_of(&app, row, number * CALLERS.len() + place);
            let answer = call(&app, row, &path, key);
            let (status, code) = expected(row, caller);
            let told = (code.is_some()).then(|| answer.json()["code"].clone());
            if answer.status != status || told != code.map(Value::from) {
                problems.push(format!(
                    "{} as {caller:?}: {} {} instead of {status} {code:?}",
                    row.operation,
                    answer.status,
                    answer.text()
                ));
            }
        }
    }
    assert!(
        problems.is_empty(),
        "{} problems:\n{}",
        problems.len(),
        problems.join("\n")
    );
}
