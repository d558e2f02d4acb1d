//! The list of events that admins page through.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::TestApp;

#[test]
fn admin_lists_page_through_every_event_once() {
    let app = TestApp::start();
    let events: Vec<Value> = (0..250)
        .map(|number| {
            json!({"type": "track", "event": format!("e{}", number % 2),
                "userId": format!("u{}", number % 5), "messageId": format!("m{number}"),
                "properties": {"number": number}})
        })
        .collect();
    app.client()
        .post("/v1/batch", &json!({"batch": events}))
        .expect(200);
    let admin = app.admin();
    let mut seen = BTreeSet::new();
    let mut path = "/v1/admin/events?limit=60".to_owned();
    for _ in 0..10 {
        let page = admin.get(&path).expect(200);
        assert_eq!(page["total"], 250, "{page}");
        for event in page["events"].as_array().unwrap() {
            let fresh = seen.insert(event["id"].as_str().unwrap().to_owned());
            assert!(fresh, "{event} came twice");
        }
        match page["next_cursor"].as_str() {
            Some(cursor) => path = format!("/v1/admin/events?limit=60&cursor={cursor}"),
            None => break,
        }
    }
    assert_eq!(seen.len(), 250);
    let some = admin
        .get("/v1/admin/events?event=e1&user_id=u3&limit=100")
        .expect(200);
    assert_eq!(some["total"], 25, "{some}");
    for event in some["events"].as_array().unwrap() {
        assert_eq!(
            (&event["event"], &event["user_id"]),
            (&json!("e1"), &json!("u3"))
        );
    }
    let second = admin
        .get("/v1/admin/events?limit=100&offset=200")
        .expect(200);
    assert_eq!(second["events"].as_array().unwrap().len(), 50);
    for odd in ["cursor=nonsense", "from=yesterday"] {
        let answer = admin.get(&format!("/v1/admin/events?{odd}"));
        assert_eq!(answer.status, 400, "{odd}: {}", answer.text());
    }
    let clamped = admin.get("/v1/admin/events?limit=5000").expect(200);
    assert_eq!(clamped["events"].as_array().unwrap().len(), 100);
}
