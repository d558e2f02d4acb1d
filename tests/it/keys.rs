//! Keys: where clients put them, and how they begin and end.

use std::thread;
use std::time::Duration;

use diesel::connection::SimpleConnection;
use serde_json::{Value, json};

use crate::support::sql::{self, KeyRow, default_project, quoted};
use crate::support::{ADMIN_KEY, CLIENT_KEY, TestApp, eventually, pause};

#[test]
fn a_key_is_found_wherever_an_sdk_puts_it() {
    let app = TestApp::start();
    let basic = basic(CLIENT_KEY);
    let bearer = format!("Bearer {CLIENT_KEY}");
    let track = |headers: &[(&str, &str)], path: &str, extra: Value| {
        let mut body = json!({"userId": "u", "event": "e"});
        for (name, value) in extra.as_object().unwrap() {
            body[name] = value.clone();
        }
        app.nobody()
            .send("POST", path, headers, Some(body.to_string().as_bytes()))
            .status
    };
    let none = json!({});
    for headers in [
        &[("authorization", basic.as_str())][..],
        &[("authorization", bearer.as_str())],
        &[("authorization", CLIENT_KEY)],
        &[("x-write-key", CLIENT_KEY)],
        &[("x-api-key", CLIENT_KEY)],
        // A good key behind a bad one is still a good key.
        &[
            ("authorization", "Bearer of.good.news"),
            ("x-api-key", CLIENT_KEY),
        ],
        &[("x-write-key", "id:***"), ("x-api-key", CLIENT_KEY)],
    ] {
        assert_eq!(
            track(headers, "/v1/track", none.clone()),
            200,
            "{headers:?}"
        );
    }
    let query = format!("/v1/track?writeKey={CLIENT_KEY}");
    assert_eq!(track(&[], &query, none.clone()), 200);
    for member in ["writeKey", "api_key", "token"] {
        let mut body = json!({});
        body[member] = CLIENT_KEY.into();
        assert_eq!(track(&[], "/v1/track", body), 200, "{member}");
    }
    let oauth = [("authorization", "Bearer some.oauth.token")];
    assert_eq!(
        track(&oauth, "/v1/track", json!({"writeKey": CLIENT_KEY})),
        200
    );
    for headers in [
        &[("authorization", "Basic !!!")][..],
        &[("authorization", "Basic ")],
        &[("authorization", "")],
        &[("x-api-key", "")],
        &[("x-api-key", &CLIENT_KEY[1..])],
    ] {
        assert_eq!(
            track(headers, "/v1/track", none.clone()),
            401,
            "{headers:?}"
        );
    }
    assert_eq!(track(&[], "/v1/track", none.clone()), 401);
    // An admin route takes no key from a body, which pages of others can send.
    let body = json!({"name": "n", "writeKey": ADMIN_KEY}).to_string();
    let answer = app
        .nobody()
        .send("POST", "/v1/admin/campaigns", &[], Some(body.as_bytes()));
    assert_eq!(answer.status, 401, "{}", answer.text());
}

fn basic(user: &str) -> String {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    format!("Basic {}", STANDARD.encode(format!("{user}:")))
}

#[test]
fn keys_are_made_shown_once_and_revoked() {
    let app = TestApp::start();
    let admin = app.admin();
    let made = admin
        .post(
            "/v1/admin/keys",
            &json!({"name": "site", "scope": "client"}),
        )
        .expect(201);
    let secret = made["key"].as_str().unwrap().to_owned();
    assert!(secret.len() >= 32, "{made}");
    let id = made["id"].clone();
    let id = id.as_str().map_or_else(|| id.to_string(), str::to_owned);
    let fetch = || app.with_key(&secret).get("/v1/campaigns?user_id=u").status;
    assert_eq!(fetch(), 200);

    let listed = admin.get("/v1/admin/keys").expect(200);
    assert!(listed.to_string().contains("site"), "{listed}");
    assert!(!listed.to_string().contains(&secret), "{listed}");
    let dump = sql::rows(&mut app.sql(), "SELECT * FROM api_keys");
    assert!(!json!(dump).to_string().contains(&secret));

    let ended = || {
        let query = "SELECT * FROM api_keys WHERE revoked_at IS NOT NULL";
        let audited = "SELECT * FROM audit_log WHERE action = 'revoke'";
        (
            sql::rows(&mut app.sql(), query),
            sql::rows(&mut app.sql(), audited),
        )
    };
    admin.delete(&format!("/v1/admin/keys/{id}")).expect(200);
    // At once on the node that revoked it.
    assert_eq!(fetch(), 401);
    let once = ended();
    assert_eq!((once.0.len(), once.1.len()), (1, 1));
    // Once more is as good, and changes nothing.
    admin.delete(&format!("/v1/admin/keys/{id}")).expect(200);
    assert_eq!(ended(), once);
    for (body, what) in [
        (json!({"name": "n", "scope": "root"}), "scope"),
        (json!({"name": "n"}), "scope"),
    ] {
        let answer = admin.post("/v1/admin/keys", &body).expect(400);
        assert_eq!(answer["details"][0]["path"], what, "{answer}");
    }
}

#[test]
fn a_key_expires_while_the_server_runs() {
    let secret = "short_lived_key_0123456789";
    let app = TestApp::prepared(&[], |sql| {
        let project = default_project(sql);
        let mut key = KeyRow::good(project, "client", secret);
        key.expires_at = "now() + interval '20 seconds'";
        key.insert(sql);
    });
    let fetch = || app.with_key(secret).get("/v1/campaigns").status;
    assert_eq!(fetch(), 200);
    sql::run(
        &mut app.sql(),
        &format!(
            "UPDATE api_keys SET expires_at = now() - interval '1 second' WHERE prefix = {};
             UPDATE project_revisions SET revision = revision + 1",
            quoted(&secret[..8])
        ),
    );
    // The change did not come through this node; its poll finds it.
    eventually("the key is no longer good", Duration::from_secs(10), || {
        (fetch() == 401).then_some(())
    });
}

#[test]
fn a_key_that_asks_too_much_is_told_when_to_come_back() {
    let app = TestApp::start_with(&[("BECKON_KEY_REQUESTS_PER_SECOND", "2")]);
    let client = app.client();
    let answers: Vec<_> = (0..20).map(|_| client.get("/v1/campaigns")).collect();
    let taken = answers.iter().filter(|answer| answer.status == 200).count();
    assert!((2..20).contains(&taken), "{taken} of 20");
    for header in ["ratelimit-limit", "ratelimit-remaining", "ratelimit-reset"] {
        let value = answers[0].header(header);
        assert!(value.parse::<u64>().is_ok(), "{header}: {value:?}");
    }
    let refused = answers.iter().find(|answer| answer.status != 200).unwrap();
    refused.expect_problem(429, "rate_limited");
    let wait: u64 = refused.header("retry-after").parse().unwrap();
    assert!((1..=300).contains(&wait), "{wait}");
    // Another key, and the probes, are not its neighbours' concern.
    app.admin().get("/v1/admin/users").expect(200);
    app.nobody().get("/v1/health").expect(200);
    eventually("the bucket fills again", Duration::from_secs(10), || {
        (client.get("/v1/campaigns").status == 200).then_some(())
    });
}

/// As Segment's SDKs do with OAuth: the token is not ours, the key is in the body.
#[test]
fn a_token_of_somebody_elses_does_not_cost_a_good_key_its_calls() {
    let app = TestApp::start_with(&[("BECKON_KEY_MISSES_PER_MINUTE", "10")]);
    let track = json!({"userId": "u", "event": "e", "writeKey": CLIENT_KEY});
    app.client().post("/v1/track", &track).expect(200);
    for number in 0..30 {
        let token = format!("Bearer token-of-another-{number}");
        let client = app.nobody().header("authorization", &token);
        client.post("/v1/track", &track).expect(200);
    }
    // Alone, a token is a guess like any other.
    let guess = app
        .nobody()
        .header("authorization", "Bearer one-more-token");
    guess
        .get("/v1/campaigns")
        .expect_problem(429, "rate_limited");
}

/// As after a start, when all of an application's connections come back at once.
#[test]
fn many_calls_with_a_key_that_is_not_known_yet_are_one_guess() {
    let app = TestApp::start_with(&[("BECKON_KEY_MISSES_PER_MINUTE", "3")]);
    let mut lock = app.sql();
    lock.batch_execute("BEGIN; LOCK TABLE api_keys IN ACCESS EXCLUSIVE MODE")
        .unwrap();
    thread::scope(|scope| {
        let calls: Vec<_> = (0..20)
            .map(|_| scope.spawn(|| app.client().get("/v1/campaigns").status))
            .collect();
        pause(Duration::from_millis(500));
        lock.batch_execute("COMMIT").unwrap();
        for call in calls {
            assert_eq!(call.join().unwrap(), 200);
        }
    });
}

#[test]
fn guessing_keys_is_slowed_down() {
    let app = TestApp::start_with(&[("BECKON_KEY_MISSES_PER_MINUTE", "10")]);
    let known = app.client();
    known.get("/v1/campaigns").expect(200);
    let statuses: Vec<u16> = (0..30)
        .map(|number| {
            let guess = format!("guess_{number}_0123456789abcdef");
            app.with_key(&guess).get("/v1/campaigns").status
        })
        .collect();
    assert_eq!(statuses[0], 401);
    assert_eq!(statuses[29], 429, "{statuses:?}");
    // Whoever is known to have a good key is let in from the same address.
    known.get("/v1/campaigns").expect(200);
}
