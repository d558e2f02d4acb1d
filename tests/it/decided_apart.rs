//! Rules that take long keep nobody waiting but those who ask for them, and are decided alike wherever
//! that is done.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::campaign_flow::{create, identify, on_buy};
use crate::support::sql::{self, KeyRow};
use crate::support::{Client, TestApp, pause};

/// The key of a neighbour.
const OTHER_KEY: &str = "client_key_of_a_neighbour_0123456789";
/// How long an event may wait for the database; whoever waits longer hears 503.
pub const DEADLINE: Duration = Duration::from_secs(2);

fn start() -> TestApp {
    start_with(&[])
}

/// A server with one shard, which a neighbour shares.
pub fn start_with(variables: &[(&str, &str)]) -> TestApp {
    let one_shard = [("BECKON_INGEST_SHARDS", "1")];
    TestApp::prepared(&[&one_shard[..], variables].concat(), |sql| {
        let other = sql::project(sql, "neighbour");
        KeyRow::good(other, "client", OTHER_KEY).insert(sql);
    })
}

/// A rule of 14 million steps, if the list in `a` is as long as it may be. It holds if that has the
/// number that is asked for.
pub(crate) fn costly(number: i32) -> Value {
    let each: Vec<i32> = (0..1_000).collect();
    let is = |number: i32| json!({"==": [{"var": ""}, number]});
    let inner = json!({"some": [each, {"or": [is(-1), is(-2), is(-3), is(-4)]}]});
    let list = json!({"var": "user.traits.a"});
    json!({"some": [list, {"or": [is(number), inner]}]})
}

fn names(list: &Value) -> Vec<&str> {
    let list = list.as_array().unwrap().iter();
    list.map(|campaign| campaign["name"].as_str().unwrap())
        .collect()
}

fn bought(events: usize) -> Value {
    let event = json!({"type": "track", "userId": "ada", "event": "buy"});
    json!({"batch": vec![event; events]})
}

fn track(client: &Client) -> u16 {
    let event = json!({"user_id": "bob", "event": "seen"});
    client.post("/v1/track", &event).status
}

/// Sets what it holds when it is dropped, be it by a failure.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Does `work` from several threads, again and again, while `meanwhile` is done.
pub fn beside(threads: usize, work: impl Fn() + Sync, meanwhile: impl FnOnce()) {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _over = Over(&is_over);
        for _ in 0..threads {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    work();
                }
            });
        }
        pause(Duration::from_millis(500));
        meanwhile();
    });
}

fn ada_with_a_long_list(app: &TestApp) {
    create(
        &app.admin(),
        on_buy("costly", json!({"targeting": costly(-1)})),
    );
    let each: Vec<u32> = (0..1_000).collect();
    identify(&app.client(), "ada", json!({"a": each}));
}

/// The answers of a neighbour who tracks for a while, and how long the slowest of them took.
pub fn neighbour(app: &TestApp) -> Duration {
    let (client, nobody) = (app.with_key(OTHER_KEY), app.nobody());
    let mut slowest = Duration::ZERO;
    for _ in 0..10 {
        let begun = Instant::now();
        assert_eq!(track(&client), 200);
        slowest = slowest.max(begun.elapsed());
        nobody.get("/readyz").expect(200);
        pause(Duration::from_millis(200));
    }
    slowest
}

#[test]
fn a_list_that_takes_long_to_decide_keeps_no_neighbour_waiting() {
    let app = start();
    ada_with_a_long_list(&app);
    let client = app.client();
    let post = || client.post("/v1/batch?matched=true", &bought(300));
    beside(
        1,
        // The database is there; only a rule takes long.
        || drop(post().expect_problem(503, "overloaded")),
        || {
            let slowest = neighbour(&app);
            assert!(slowest < DEADLINE, "{slowest:?}");
        },
    );
    // They are stored all the same, and so is what does not want to know.
    let stored = client.post("/v1/batch", &bought(300)).expect(200);
    assert_eq!(stored["accepted"], 300, "{stored}");
    let events = sql::number(
        &mut app.sql(),
        "SELECT count(*) FROM events WHERE name = 'buy'",
    );
    assert!(events >= 600, "{events}");
}

#[test]
fn fetches_that_take_long_to_decide_keep_no_neighbour_waiting() {
    let app = start();
    ada_with_a_long_list(&app);
    let flag = json!({"key": "costly", "enabled": true, "targeting": costly(-1)});
    app.admin().post("/v1/admin/features", &flag).expect(200);
    for name in ["one", "two", "three", "four"] {
        create(&app.admin(), json!({"name": name, "targeting": costly(-1)}));
    }
    let (client, nobody) = (app.client(), app.nobody());
    let fetch = || {
        for path in ["/v1/campaigns", "/v1/features/costly"] {
            client.get(&format!("{path}?user_id=ada"));
        }
    };
    beside(32, fetch, || {
        let begun = Instant::now();
        nobody.get("/livez").expect(200);
        assert!(begun.elapsed() < DEADLINE, "{:?}", begun.elapsed());
        let slowest = neighbour(&app);
        assert!(slowest < DEADLINE, "{slowest:?}");
    });
}

/// The rule may take long on the list, so that nothing of it is decided ahead or in a shard; what it is
/// combined with is.
#[test]
fn what_is_decided_apart_is_what_a_shard_would_decide() {
    let app = start();
    let (admin, client) = (app.admin(), app.client());
    let is_pro = json!({"==": [{"var": "user.traits.plan"}, "pro"]});
    create(
        &admin,
        on_buy("costly", json!({"targeting": {"and": [is_pro, costly(7)]}})),
    );
    create(&admin, on_buy("little", json!({"targeting": is_pro})));
    let body = json!({"name": "many", "targeting": costly(7)});
    let segment = admin.post("/v1/admin/segments", &body).expect(201);
    create(
        &admin,
        on_buy(
            "segment",
            json!({"targeting": {"in_segment": segment["id"]}}),
        ),
    );
    let flag = json!({"key": "costly", "enabled": true, "value": 1, "targeting": costly(7)});
    admin.post("/v1/admin/features", &flag).expect(200);
    let identify = |plan: &str, a: &[i32]| {
        // As much as a rule may have to go through.
        let more = 1_000_000..1_000_300;
        let a: Vec<i32> = a.iter().copied().chain(more).collect();
        let traits = json!({"plan": plan, "a": a});
        json!({"type": "identify", "userId": "ada", "traits": traits})
    };
    let cases = [
        ("pro", [1, 7], vec!["costly", "little", "segment"]),
        ("free", [1, 7], vec!["segment"]),
        ("pro", [1, 2], vec!["little"]),
        ("free", [1, 2], vec![]),
    ];
    // The people of one list change between its events, and each is decided on what it found.
    let event = json!({"type": "track", "userId": "ada", "event": "buy"});
    let items = cases
        .iter()
        .flat_map(|(plan, a, _)| [identify(plan, a), event.clone()]);
    let list = json!({"batch": items.collect::<Vec<_>>()});
    let list = client.post("/v1/batch?matched=true", &list).expect(200);
    for (index, (plan, a, expected)) in cases.iter().enumerate() {
        let mut shown = names(&list["results"][2 * index + 1]["matched"]);
        shown.sort_unstable();
        assert_eq!(shown, *expected, "{plan} {a:?}");
        let item = json!({"batch": [identify(plan, a)]});
        client.post("/v1/batch", &item).expect(200);
        let one = json!({"user_id": "ada", "event": "buy"});
        let one = client.post("/v1/track", &one).expect(200);
        let fetched = client.get("/v1/campaigns?user_id=ada").expect(200);
        for list in [&one["matched"], &fetched["campaigns"]] {
            let mut shown = names(list);
            shown.sort_unstable();
            assert_eq!(shown, *expected, "{plan} {a:?}");
        }
        let has = a.contains(&7);
        let flag = client.get("/v1/features/costly?user_id=ada").expect(200);
        assert_eq!(flag["enabled"], has);
        let user = admin.get("/v1/admin/users/ada").expect(200);
        assert_eq!(user["segments"].as_array().unwrap().len(), usize::from(has));
    }
}
