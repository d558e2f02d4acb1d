//! What HTTP, the document and the people's own data lead to at the edges of what is allowed.

use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{CLIENT_KEY, TestApp, eventually, pause, sql};

fn nested(depth: usize) -> String {
    format!("{}{}", "[".repeat(depth), "]".repeat(depth))
}

/// Traits may nest as deep as any event; whoever has such traits is still somebody.
#[test]
fn people_with_deep_traits_go_on() {
    for limit in [256, 1_000] {
        let mut app = TestApp::start_with(&[("BECKON_LIMIT_NESTING", &limit.to_string())]);
        // The event and its traits are two levels themselves.
        let deep = nested(limit - 2);
        let body = format!(r#"{{"user_id":"deep","traits":{{"d":{deep}}}}}"#);
        let answer = app.client().post_text("/v1/identify", &body);
        assert_eq!(answer.status, 200, "{}", answer.text());
        // Nobody remembers the person now; what is known is what can be read.
        app.terminate(Duration::from_secs(10));
        app.restart();
        let client = app.client();
        let traits = json!({"user_id": "deep", "traits": {"plan": "pro"}});
        client.post("/v1/identify", &traits).expect(200);
        let alias = json!({"userId": "deep", "previousId": "other"});
        client.post("/v1/alias", &alias).expect(200);
        client.get("/v1/campaigns?user_id=deep").expect(200);
        let admin = app.admin();
        for path in ["/v1/admin/users", "/v1/admin/users/deep"] {
            let answer = admin.get(path);
            assert_eq!(answer.status, 200, "{path}: {}", answer.text());
            assert!(answer.text().contains(&deep), "{path}");
            assert!(answer.text().contains(r#""plan":"pro""#), "{path}");
        }
    }
}

/// Load balancers ask with HEAD; it is the GET without its body.
#[test]
fn head_is_a_get_without_its_body() {
    let app = TestApp::start();
    let (nobody, admin) = (app.nobody(), app.admin());
    for path in ["/v1/health", "/livez", "/readyz", "/openapi.json"] {
        let answer = nobody.send("HEAD", path, &[], None);
        assert_eq!((answer.status, answer.text().as_str()), (200, ""), "{path}");
        assert_eq!(
            answer.header("content-type"),
            nobody.get(path).header("content-type"),
            "{path}"
        );
    }
    assert_eq!(
        admin.send("HEAD", "/v1/admin/campaigns", &[], None).status,
        200
    );
    assert_eq!(
        nobody.send("HEAD", "/v1/admin/campaigns", &[], None).status,
        401
    );
    assert_eq!(admin.send("HEAD", "/v1/track", &[], None).status, 405);
    let options = nobody.send("OPTIONS", "/v1/health", &[], None);
    assert_eq!(options.header("allow"), "GET, HEAD");
}

/// JsonLogic may be a constant, and a type is returned as it was given.
#[test]
fn the_document_allows_what_is_answered() {
    let app = TestApp::start();
    let document = app.nobody().get("/openapi.json").expect(200);
    let admin = app.admin();
    let body = json!({"name": "N", "type": 5, "targeting": true});
    let campaign = admin.post("/v1/admin/campaigns", &body).expect(201);
    let segment = admin.post("/v1/admin/segments", &body).expect(201);
    let body = json!({"key": "k", "targeting": true});
    let flag = admin.post("/v1/admin/features", &body).expect(200)["flag"].clone();
    for (schema, member, answer) in [
        ("Campaign", "type", &campaign),
        ("Campaign", "targeting", &campaign),
        ("Segment", "targeting", &segment),
        ("Flag", "targeting", &flag),
    ] {
        let described = &document["components"]["schemas"][schema]["properties"][member];
        assert!(described.is_object(), "{schema}.{member}");
        assert_eq!(described.get("type"), None, "{described} for {answer}");
        assert!(!answer[member].is_object(), "{answer}");
        assert_ne!(answer[member], Value::Null, "{answer}");
    }
}

/// Each refusal has a line or is counted in the next one's, so that refusing stays cheap.
#[test]
fn what_is_refused_does_not_fill_the_log() {
    const REFUSED: u64 = 1_500;
    let mut app = TestApp::start_with(&[("BECKON_LOG", "info")]);
    thread::scope(|scope| {
        for _ in 0..3 {
            let nobody = app.nobody();
            scope.spawn(move || {
                for _ in 0..(REFUSED - 3) / 3 {
                    assert_eq!(nobody.get("/v1/nothing-here").status, 404);
                }
            });
        }
    });
    // Room for another line has come by then.
    for _ in 0..3 {
        pause(Duration::from_millis(100));
        assert_eq!(app.nobody().get("/v1/nothing-here").status, 404);
    }
    let mut told = || {
        let log = app.server().log();
        let lines = log.lines().filter_map(|line| {
            let line: Value = serde_json::from_str(line).ok()?;
            (line["status"] == 404).then_some(line)
        });
        let held_back: Vec<u64> = lines.filter_map(|it| it["held_back"].as_u64()).collect();
        let lines = u64::try_from(held_back.len()).unwrap_or(u64::MAX);
        (lines, held_back.into_iter().sum::<u64>())
    };
    let lines = eventually("each refusal is told of", Duration::from_secs(5), || {
        let (lines, held_back) = told();
        (lines + held_back == REFUSED).then_some(lines)
    });
    println!("{lines} lines of {REFUSED} refusals");
    assert!(lines < REFUSED / 2, "{lines} lines");
}

/// What a caller wrote, that caller's next call sees. Segment's SDKs send ids as they are, the seed's
/// server cut spaces off.
#[test]
fn an_id_with_spaces_around_it_names_who_was_named_by_it() {
    let app = TestApp::start();
    let (admin, client) = (app.admin(), app.client());
    let identify = |body: Value| client.post("/v1/identify", &body).expect(200);
    identify(json!({"userId": " ada ", "traits": {"plan": "pro"}}));
    identify(json!({"user_id": " bob ", "traits": {"plan": "pro"}}));
    let rules = json!([{"type": "attribute", "field": "plan", "operator": "==", "value": "pro"}]);
    let campaign = json!({"name": "N", "status": "active", "rules": rules});
    admin.post("/v1/admin/campaigns", &campaign).expect(201);
    for (id, known) in [
        ("%20ada%20", true),
        ("%20bob%20", true),
        ("bob", true),
        ("ada", false),
    ] {
        let found = client
            .get(&format!("/v1/campaigns?user_id={id}"))
            .expect(200);
        let count = found["campaigns"].as_array().unwrap().len();
        assert_eq!(count, usize::from(known), "{id}: {found}");
        let events = admin
            .get(&format!("/v1/admin/events?user_id={id}"))
            .expect(200);
        assert_eq!(events["total"], i64::from(known), "{id}: {events}");
        let question = json!({"user_id": id.replace("%20", " ")});
        let answer = admin.post("/v1/admin/explain", &question);
        let status = if known { 200 } else { 404 };
        let explained = answer.expect(status);
        if known {
            assert_eq!(explained["summary"]["matched"], 1, "{explained}");
        }
    }
    let none = client.get("/v1/campaigns?user_id=%20ada%20%20").expect(200);
    assert_eq!(none["campaigns"], json!([]), "nobody was named by that");
}

/// `total` counts all of them, so each has to be on some page.
#[test]
fn the_last_segment_of_very_many_is_on_the_last_page() {
    let app = TestApp::start();
    let mut connection = app.sql();
    let project = sql::default_project(&mut connection);
    let many = format!(
        "INSERT INTO segments (project_id, id, name, body, created_at)
         SELECT {project}, 's' || n, 'N', '{{}}', now() - n * interval '1 second'
         FROM generate_series(1, 100002) AS n"
    );
    sql::run(&mut connection, &many);
    let page = app
        .admin()
        .get("/v1/admin/segments?offset=100001")
        .expect(200);
    assert_eq!(page["total"], 100_002);
    let ids: Vec<&Value> = page["segments"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| &it["id"])
        .collect();
    assert_eq!(ids, ["s100002"]);
    let beyond = format!("/v1/admin/campaigns?offset={}", u64::MAX);
    let empty = app.admin().get(&beyond).expect(200);
    assert_eq!(empty["campaigns"], json!([]));
}

/// The headers tell of the limit that was reached.
#[test]
fn a_refusal_of_events_tells_of_their_limit() {
    let app = TestApp::start_with(&[
        ("BECKON_PROJECT_EVENTS_PER_SECOND", "20"),
        ("BECKON_KEY_REQUESTS_PER_SECOND", "1000"),
    ]);
    let event = json!({"type": "track", "userId": "u", "event": "e"});
    let batch = |count: usize| {
        let body = json!({"batch": vec![event.clone(); count]});
        app.client().post("/v1/batch", &body)
    };
    let taken = batch(100);
    taken.expect(200);
    assert_eq!(taken.header("ratelimit-limit"), "2000");
    let refused = batch(30);
    refused.expect_problem(429, "rate_limited");
    assert_eq!(refused.header("ratelimit-limit"), "40");
    assert_eq!(refused.header("ratelimit-remaining"), "0");
    assert!(refused.header("ratelimit-policy").starts_with("20;"));
}

/// The page's own routes refuse as the others do, and a refusal names what there is.
#[test]
fn every_refusal_has_its_form() {
    let app = TestApp::start_with(&[("BECKON_METRICS", "off")]);
    for (path, client) in [("/docs/nope", app.nobody()), ("/metrics", app.admin())] {
        let problem = client.get(path).expect_problem(404, "route_not_found");
        let routes = problem["availableRoutes"].as_array().unwrap();
        assert!(routes.contains(&json!("POST /v1/track")), "{problem}");
        assert!(!routes.contains(&json!(format!("GET {path}"))), "{problem}");
    }
}

/// An SDK sends them without any key. They cost an address as much as any call.
#[test]
fn an_sdks_own_metrics_need_no_key_and_are_limited() {
    let app = TestApp::start_with(&[("BECKON_ADDRESS_REQUESTS_PER_SECOND", "2")]);
    let answers: Vec<_> = (0..20)
        .map(|_| {
            app.nobody()
                .post_text("/v1/m", r#"{"series":[{"type":"Counter"}]}"#)
        })
        .collect();
    assert_eq!(answers[0].expect(200)["success"], true);
    let last = answers.iter().find(|answer| answer.status != 200).unwrap();
    last.expect_problem(429, "rate_limited");
}

/// Each of the body's keys is tried, as each of the head's is.
#[test]
fn any_key_of_the_body_will_do() {
    let app = TestApp::start();
    let nobody = app.nobody();
    for keys in [
        json!({"writeKey": "of somebody else", "api_key": CLIENT_KEY}),
        json!({"writeKey": "of somebody else", "api_key": "and one more", "token": CLIENT_KEY}),
        json!({"api_key": "of somebody else", "writeKey": CLIENT_KEY}),
    ] {
        let mut body = json!({"userId": "u", "event": "e"});
        body.as_object_mut()
            .unwrap()
            .extend(keys.as_object().unwrap().clone());
        nobody.post("/v1/track", &body).expect(200);
    }
    let body = json!({"userId": "u", "event": "e", "writeKey": "bad", "token": "bad too"});
    nobody
        .post("/v1/track", &body)
        .expect_problem(401, "invalid_key");
}

/// Refusals are described by what the document does not allow.
#[test]
fn the_document_does_not_allow_what_is_refused() {
    let app = TestApp::start();
    let admin = app.admin();
    let document = app.nobody().get("/openapi.json").expect(200);
    let made = |path: &str| {
        let answer = admin.post(path, &json!({"name": "N"})).expect(201);
        format!("{path}/{}", answer["id"].as_str().unwrap())
    };
    let campaign = made("/v1/admin/campaigns");
    let segment = made("/v1/admin/segments");
    let put = |path: &str, member: &str| admin.put(path, &json!({member: null}));
    let flag = json!({"key": "k", "enabled": null});
    for (schema, member, answer) in [
        ("CampaignBody", "name", put(&campaign, "name")),
        ("CampaignBody", "status", put(&campaign, "status")),
        ("SegmentBody", "name", put(&segment, "name")),
        (
            "FlagBody",
            "enabled",
            admin.post("/v1/admin/features", &flag),
        ),
    ] {
        answer.expect_problem(400, "invalid_field");
        let described = &document["components"]["schemas"][schema]["properties"][member];
        assert!(
            described["type"].is_string(),
            "{schema}.{member}: {described}"
        );
    }
}

/// What is read of a body is in the document.
#[test]
fn the_document_names_what_is_read() {
    let app = TestApp::start();
    let document = app.nobody().get("/openapi.json").expect(200);
    for (schema, members) in [
        ("CampaignBody", "schedule segments priority slot"),
        ("Campaign", "schedule segments priority slot"),
        ("CampaignSchedule", "start end"),
        ("CampaignSegments", "include exclude"),
        (
            "CallBody",
            "type name category originalTimestamp anonymous_id api_key token integrations",
        ),
        ("BatchBody", "api_key token"),
        ("MetricsBody", "series"),
    ] {
        for member in members.split(' ') {
            let described = &document["components"]["schemas"][schema]["properties"][member];
            assert!(described.is_object(), "{schema}.{member}");
        }
    }
    let event = &document["components"]["schemas"]["ExplainBody"]["properties"]["event"];
    let asked = json!({"event": "Ordered"});
    app.admin().post("/v1/admin/explain", &asked).expect(200);
    assert!(event.to_string().contains(r#""type":"string""#), "{event}");
    for (route, method, status) in [
        ("/v1/admin/features", "post", "409"),
        ("/v1/admin/rejected/replay", "post", "413"),
        ("/metrics", "get", "404"),
    ] {
        let answer = &document["paths"][route][method]["responses"][status];
        assert!(answer.is_object(), "{method} {route}: {status}");
    }
}
