//! Numbers that are short in JSON and long in the database: `1e308` has 309 digits there.

use serde_json::{Value, json};

use crate::support::{TestApp, patience, sql};

/// So many digits are what somebody's traits may have in all, by default.
const LIMIT: usize = 256 * 1024;

#[test]
fn a_number_counts_with_all_its_digits() {
    let app = TestApp::start();
    let identify = |count: usize| {
        let body = json!({"user_id": "ada", "event_id": format!("e{count}"),
            "traits": {"list": vec![1e308; count]}});
        app.client().post("/v1/identify", &body).expect(200)
    };
    let refused = identify(LIMIT / 300);
    assert_eq!(
        refused["rejected"][0]["code"], "traits_too_large",
        "{refused}"
    );
    let taken = identify(LIMIT / 400);
    assert_eq!(taken.get("rejected"), None, "{taken}");
    let user = app.admin().get("/v1/admin/users/ada").expect(200);
    assert_eq!(user["traits"]["list"], json!(vec![1e308; LIMIT / 400]));
    let stored = "SELECT octet_length(traits::text) FROM persons";
    assert!(sql::number(&mut app.sql(), stored) < 2 * LIMIT as i64);
}

/// As when the limit was higher once. One may change all the same, if it gets no larger.
#[test]
fn people_with_far_more_than_is_allowed_are_read_one_by_one() {
    const PEOPLE: usize = 64;
    let mut app = TestApp::start_with(&[("BECKON_INGEST_SHARDS", "1"), patience()]);
    let identify = |n| json!({"type": "identify", "userId": format!("u{n}"), "traits": {"n": 1}});
    let list: Vec<Value> = (0..PEOPLE).map(identify).collect();
    let list = json!({ "batch": list });
    app.client().post("/v1/batch", &list).expect(200);
    app.terminate(std::time::Duration::from_secs(30));
    // 13 MB each.
    sql::run(
        &mut app.sql(),
        "UPDATE persons SET traits = jsonb_build_object('list', \
         (SELECT jsonb_agg(1e308) FROM generate_series(1, 43000)))",
    );
    app.restart();
    app.client()
        .post_text("/v1/batch", r#"{"batch":[]}"#)
        .expect(200);
    let before = app.server().memory_bytes("VmHWM");
    let answer = app.client().post("/v1/batch", &list);
    assert!(matches!(answer.status, 200 | 503), "{}", answer.text());
    let grown = app.server().memory_bytes("VmHWM").saturating_sub(before);
    println!("grown by {grown} bytes");
    assert!(grown < 250 << 20, "grown by {grown} bytes");
}
