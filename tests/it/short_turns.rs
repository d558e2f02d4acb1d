//! A list that takes a shard long is done in several turns: others have theirs in between, and it is as if
//! it had been done in one.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::bombs::about_people_with_much;
use crate::campaign_flow::{create, identify, on_buy};
use crate::decided_apart::{DEADLINE, beside, neighbour, start_with};
use crate::support::ledger::assert_ledger;
use crate::support::metrics::Scrape;
use crate::support::{TestApp, eventually, patience, pause, sql};

const LONG: Duration = Duration::from_secs(120);

fn transactions(app: &TestApp) -> f64 {
    Scrape::of(&app.admin()).sum("beckon_ingest_batch_events_count", "")
}

fn decisions(app: &TestApp) -> f64 {
    // A scrape may be a moment old.
    pause(Duration::from_millis(250));
    Scrape::of(&app.admin()).sum("beckon_decisions_total", "")
}

/// Two people with as many traits as are allowed, the same ones but for the last, which are too many for
/// one person.
fn two_with_much(app: &TestApp) {
    for (user, last, length) in [("a", "pad", 1_500), ("b", "zzz", 1_500)] {
        let mut traits: Map<String, Value> =
            (0..26_000).map(|n| (format!("{n:05}"), json!(0))).collect();
        traits.insert(last.to_owned(), json!("x".repeat(length)));
        identify(&app.client(), user, Value::Object(traits));
    }
}

#[test]
fn links_that_are_refused_keep_no_neighbour_waiting() {
    const LINKS: usize = 2_500;
    let app = start_with(&[]);
    two_with_much(&app);
    let client = app.client();
    let alias = json!({"type": "alias", "userId": "a", "previousId": "b"});
    let change = |n: usize| json!({"type": "identify", "userId": "a", "traits": {"00000": n % 10}});
    let same = json!({"batch": vec![&alias; LINKS]});
    let changing = (0..LINKS / 2).flat_map(|n| [change(n), alias.clone()]);
    let changing = json!({"batch": changing.collect::<Vec<_>>()});
    for list in [&same, &changing] {
        let post = || {
            let status = client.post("/v1/batch", list).status;
            assert!(matches!(status, 200 | 503), "{status}");
        };
        beside(1, post, || {
            let slowest = neighbour(&app);
            println!("{slowest:?}");
            assert!(slowest < DEADLINE, "{slowest:?}");
        });
    }
    let refused = "SELECT count(*) FROM rejected_events WHERE code = 'traits_too_large'";
    assert!(sql::number(&mut app.sql(), refused) > 0);
    eventually("nothing is in flight", LONG, || {
        let ready = app.nobody().get("/readyz").expect(200);
        (ready["queued_events"] == 0).then_some(())
    });
    assert_ledger(&app);
}

#[test]
fn people_with_much_keep_no_neighbour_waiting() {
    let mut app = start_with(&[]);
    let list = about_people_with_much(&mut app, 2_500, 0);
    let client = app.client();
    let post = || {
        let status = client.post("/v1/batch", &list).status;
        assert!(matches!(status, 200 | 503), "{status}");
    };
    beside(1, post, || {
        let slowest = neighbour(&app);
        println!("{slowest:?}");
        assert!(slowest < DEADLINE, "{slowest:?}");
    });
}

/// Each event is stored once, in its place, and decided on as it found its person.
#[test]
fn a_list_that_takes_several_turns_is_answered_as_one() {
    const PAIRS: usize = 150;
    let app = start_with(&[patience()]);
    let client = app.client();
    let is_even = json!({"==": [{"%": [{"var": "user.traits.n"}, 2]}, 0]});
    create(&app.admin(), on_buy("even", json!({"targeting": is_even})));
    let much: Map<String, Value> = (0..12_000)
        .map(|n| (format!("trait_{n:05}"), json!(n)))
        .collect();
    identify(&client, "ada", Value::Object(much));
    // Somebody new among them, of whom the first turn does not know that the second will create them.
    let pair = |n: usize| {
        let id = |kind: &str| format!("{kind} {n}");
        [
            json!({"type": "identify", "userId": "ada", "traits": {"n": n}, "messageId": id("who")}),
            json!({"type": "track", "userId": "ada", "event": "buy", "messageId": id("what")}),
            json!({"type": "track", "userId": format!("new {}", n / 50), "event": "come",
                   "messageId": id("new")}),
            json!({"type": "track", "userId": "", "messageId": id("bad")}),
        ]
    };
    let list: Vec<Value> = (0..PAIRS).flat_map(pair).collect();
    let list = json!({ "batch": list });
    let before = transactions(&app);
    let answer = client.post("/v1/batch?matched=true", &list).expect(200);
    let turns = transactions(&app) - before;
    println!("{turns} turns");
    assert!(turns > 2.0, "{turns}");
    let shown = |answer: &Value, n: usize| {
        let matched = &answer["results"][4 * n + 1]["matched"];
        matched.as_array().unwrap().len()
    };
    for n in 0..PAIRS {
        assert_eq!(shown(&answer, n), (n + 1) % 2, "{n}");
    }
    assert_eq!(answer["accepted"], 3 * PAIRS, "{answer}");
    let decided = decisions(&app);
    assert!((decided - PAIRS as f64).abs() < 0.5, "{decided}");
    let again = client.post("/v1/batch?matched=true", &list).expect(200);
    for n in 0..PAIRS {
        let ids = |answer: &Value| answer["results"][4 * n + 2]["event_id"].clone();
        assert_eq!(ids(&again), ids(&answer), "{n}");
    }
    let user = app.admin().get("/v1/admin/users/ada").expect(200);
    assert_eq!(user["traits"]["n"], PAIRS - 1);
    let number = |query: &str| sql::number(&mut app.sql(), query);
    assert_eq!(number("SELECT count(*) FROM persons"), 4);
    assert_eq!(number("SELECT count(*) FROM events"), 3 * PAIRS as i64 + 1);
    let in_order = "SELECT count(*) FROM (SELECT id, lag(id) OVER (ORDER BY (properties->>'n')::int) AS before                     FROM events WHERE kind = 1 AND properties->>'n' IS NOT NULL) e WHERE id < before";
    assert_eq!(number(in_order), 0);
    assert_ledger(&app);
}
