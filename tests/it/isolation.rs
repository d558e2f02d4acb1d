//! Nobody reads or writes another project's data, and nobody can tell that it is there.

use serde_json::{Value, json};

use crate::support::sql::{self, KeyRow, default_project, quoted};
use crate::support::{Answer, Client, TestApp};

const OTHER_ADMIN: &str = "admin_key_of_another_project_0123456789";
const OTHER_CLIENT: &str = "client_key_of_another_project_0123456789";

fn start() -> TestApp {
    TestApp::prepared(&[], |sql| {
        let other = sql::project(sql, "other");
        KeyRow::good(other, "admin", OTHER_ADMIN).insert(sql);
        KeyRow::good(other, "client", OTHER_CLIENT).insert(sql);
    })
}

/// What anybody can see of an answer, but for the request's own id and the object's name.
fn seen(answer: &Answer, id: &str) -> (u16, Vec<String>, String) {
    let mut body = answer.json();
    if let Some(object) = body.as_object_mut() {
        let instance = object.remove("instance");
        assert!(instance.is_some(), "{body}");
    }
    let mut names: Vec<String> = answer
        .headers
        .keys()
        // Whether the connection stays open depends on when the request came.
        .filter(|name| *name != "connection")
        .map(|name| name.as_str().to_owned())
        .collect();
    names.sort();
    (answer.status, names, body.to_string().replace(id, "ID"))
}

fn send(client: &Client, method: &str, path: &str) -> Answer {
    match method {
        "GET" => client.get(path),
        "DELETE" => client.delete(path),
        "POST" => client.post(path, &json!({})),
        _ => client.put(path, &json!({"name": "taken"})),
    }
}

#[test]
fn another_projects_object_answers_like_a_missing_one() {
    let app = start();
    let (admin, other) = (app.admin(), app.with_key(OTHER_ADMIN));
    let made = |path: &str, body: Value| {
        let answer = admin.post(path, &body).expect(201);
        answer["id"].as_str().unwrap().to_owned()
    };
    let campaign = made("/v1/admin/campaigns", json!({"name": "secret plan"}));
    let segment = made("/v1/admin/segments", json!({"name": "secret people"}));
    admin
        .post("/v1/track", &json!({"user_id": "u-secret", "event": "e"}))
        .expect(200);
    let key = {
        let mut sql = app.sql();
        let project = default_project(&mut sql);
        KeyRow::good(project, "client", "some_client_key_0123456789").insert(&mut sql);
        sql::number(&mut sql, "SELECT max(id) FROM api_keys").to_string()
    };
    let bad = json!({"batch": [{"type": "track", "userId": "u-secret", "event": ""}]});
    app.client().post("/v1/batch", &bad).expect(200);
    let rejected = sql::number(&mut app.sql(), "SELECT max(id) FROM rejected_events").to_string();
    let missing_uuid = "0198d1f0-0000-7000-8000-000000000000";
    let cases = [
        ("GET", "/v1/admin/campaigns/ID", &campaign, missing_uuid),
        ("PUT", "/v1/admin/campaigns/ID", &campaign, missing_uuid),
        ("DELETE", "/v1/admin/campaigns/ID", &campaign, missing_uuid),
        ("GET", "/v1/analytics/campaigns/ID", &campaign, missing_uuid),
        ("GET", "/v1/admin/segments/ID", &segment, missing_uuid),
        ("PUT", "/v1/admin/segments/ID", &segment, missing_uuid),
        ("DELETE", "/v1/admin/segments/ID", &segment, missing_uuid),
        (
            "GET",
            "/v1/admin/users/ID",
            &"u-secret".to_owned(),
            "u-nobody",
        ),
        (
            "GET",
            "/v1/admin/users/ID/events",
            &"u-secret".to_owned(),
            "u-nobody",
        ),
        ("DELETE", "/v1/admin/keys/ID", &key, "999999999"),
        ("GET", "/v1/admin/rejected/ID", &rejected, "999999999"),
        (
            "POST",
            "/v1/admin/rejected/ID/replay",
            &rejected,
            "999999999",
        ),
    ];
    for (method, path, theirs, missing) in cases {
        let theirs_answer = send(&other, method, &path.replace("ID", theirs));
        let missing_answer = send(&other, method, &path.replace("ID", missing));
        assert_eq!(
            theirs_answer.status,
            404,
            "{method} {path}: {}",
            theirs_answer.text()
        );
        assert_eq!(
            seen(&theirs_answer, theirs),
            seen(&missing_answer, missing),
            "{method} {path}"
        );
    }
    // Nothing of it had an effect.
    let kept = admin
        .get(&format!("/v1/admin/campaigns/{campaign}"))
        .expect(200);
    assert_eq!(kept["name"], "secret plan", "{kept}");
    let kept = admin
        .get(&format!("/v1/admin/segments/{segment}"))
        .expect(200);
    assert_eq!(kept["name"], "secret people", "{kept}");
    assert_eq!(
        app.with_key("some_client_key_0123456789")
            .get("/v1/campaigns")
            .status,
        200,
        "the key is not revoked"
    );
}

#[test]
fn lists_figures_and_flags_show_only_ones_own() {
    let app = start();
    let (admin, other) = (app.admin(), app.with_key(OTHER_ADMIN));
    admin
        .post(
            "/v1/admin/campaigns",
            &json!({"name": "ours", "status": "active", "trigger": "e"}),
        )
        .expect(201);
    admin
        .post("/v1/admin/segments", &json!({"name": "ours"}))
        .expect(201);
    admin
        .post("/v1/admin/features", &json!({"key": "ours", "value": 1}))
        .expect(200);
    admin
        .post(
            "/v1/identify",
            &json!({"user_id": "u", "traits": {"ours": true}}),
        )
        .expect(200);
    admin
        .post("/v1/track", &json!({"user_id": "u", "event": "e"}))
        .expect(200);

    for (path, list) in [
        ("/v1/admin/campaigns", "campaigns"),
        ("/v1/admin/segments", "segments"),
        ("/v1/admin/users", "users"),
        ("/v1/admin/events", "events"),
    ] {
        let ours = admin.get(path).expect(200);
        assert_ne!(ours[list], json!([]), "{path}: {ours}");
        let theirs = other.get(path).expect(200);
        assert_eq!(theirs[list], json!([]), "{path}: {theirs}");
        assert_eq!(theirs["total"], 0, "{path}: {theirs}");
    }
    assert_eq!(
        other.get("/v1/admin/features").expect(200)["flags"],
        json!({})
    );
    let keys = other.get("/v1/admin/keys").expect(200).to_string();
    assert!(!keys.contains("adm_0123"), "{keys}");
    let overview = other.get("/v1/analytics/overview").expect(200);
    for figure in [
        "totalCampaigns",
        "activeCampaigns",
        "totalEvents",
        "totalUsers",
    ] {
        assert_eq!(overview[figure], 0, "{overview}");
    }
    let theirs = app.with_key(OTHER_CLIENT);
    assert_eq!(
        theirs.get("/v1/features/ours?user_id=u").expect(200)["enabled"],
        false
    );
    // The same user id is somebody else there, and our campaign is not theirs.
    let answer = theirs
        .post("/v1/track", &json!({"user_id": "u", "event": "e"}))
        .expect(200);
    assert_eq!(answer["matched"], json!([]), "{answer}");
    let answer = other
        .post(
            "/v1/identify",
            &json!({"user_id": "u", "traits": {"theirs": true}}),
        )
        .expect(200);
    assert_eq!(answer["user"], json!({"theirs": true}));
    let persons = sql::number(&mut app.sql(), "SELECT count(*) FROM persons");
    assert_eq!(persons, 2);
}

#[test]
fn fields_that_claim_a_project_or_a_scope_have_no_effect() {
    let app = start();
    let ours = default_project(&mut app.sql());
    let theirs = app.with_key(OTHER_CLIENT);
    let claim = json!({
        "user_id": "claims", "event": "claimed", "properties": {},
        "project_id": ours, "projectId": ours, "project": "default", "scope": "admin",
    });
    theirs
        .post(&format!("/v1/track?project_id={ours}&scope=admin"), &claim)
        .expect(200);
    let answer = theirs
        .post(
            "/v1/identify",
            &json!({"user_id": "claims", "traits": {"a": 1}, "project_id": ours, "scope": "admin"}),
        )
        .expect(200);
    assert_eq!(answer["user"], json!({"a": 1}));
    assert_eq!(
        theirs.get("/v1/admin/users?scope=admin").status,
        403,
        "a client key stays one"
    );
    let other = app.with_key(OTHER_ADMIN);
    let made = other
        .post(
            "/v1/admin/campaigns",
            &json!({"name": "claimed", "project_id": ours}),
        )
        .expect(201);
    let mut sql = app.sql();
    for (table, condition) in [
        ("events", "name = 'claimed'".to_owned()),
        (
            "campaigns",
            format!("id = {}", quoted(made["id"].as_str().unwrap())),
        ),
        ("identities", "value = 'claims'".to_owned()),
    ] {
        let rows = sql::rows(
            &mut sql,
            &format!("SELECT project_id FROM {table} WHERE {condition}"),
        );
        assert_eq!(rows.len(), 1, "{table}");
        assert_ne!(rows[0]["project_id"], ours, "{table}");
    }
    let other_keys = app.with_key(OTHER_ADMIN);
    let made = other_keys
        .post(
            "/v1/admin/keys",
            &json!({"name": "claims", "scope": "read", "project_id": ours}),
        )
        .expect(201);
    let secret = made["key"].as_str().unwrap();
    let seen = app.with_key(secret).get("/v1/admin/users").expect(200);
    assert_eq!(seen["total"], 1, "{seen}");
}

#[test]
fn the_same_message_id_in_two_projects_is_two_events() {
    let app = start();
    let body = json!({"user_id": "u", "event": "e", "event_id": "shared-id"});
    let ours = app.client().post("/v1/track", &body).expect(200);
    let theirs = app
        .with_key(OTHER_CLIENT)
        .post("/v1/track", &body)
        .expect(200);
    for answer in [&ours, &theirs] {
        assert_ne!(answer["duplicate"], true, "{answer}");
    }
    assert_ne!(ours["event"]["id"], theirs["event"]["id"]);
    let mut sql = app.sql();
    assert_eq!(sql::events_with_id(&mut sql, "shared-id"), 2);
    let again = app
        .with_key(OTHER_CLIENT)
        .post("/v1/track", &body)
        .expect(200);
    assert_eq!(again["duplicate"], true, "{again}");
    assert_eq!(again["event"]["id"], theirs["event"]["id"]);
    assert_eq!(sql::events_with_id(&mut sql, "shared-id"), 2);
}
