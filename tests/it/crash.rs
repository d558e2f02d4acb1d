//! What a server promised before it was killed or asked to stop is kept.
//!
//! kill -9 leaves the page cache as it is, so these tests cannot see a lazy fsync; that the
//! settings are durable is asserted where the server reads them.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use diesel::PgConnection;
use serde_json::json;

use crate::support::app::{Launch, Server};
use crate::support::journal::{Counter, Journal, Load, Rejections};
use crate::support::postgres::postgres_server;
use crate::support::property::seed;
use crate::support::{TestApp, is_soak, pause, sql};

const CONNECTIONS: usize = 64;

/// Random numbers that can be had again.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new() -> Self {
        Self(seed())
    }

    /// Evenly from 0 to below `bound` (xorshift, after a splash so that small seeds differ).
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (value ^ (value >> 31)) % bound
    }
}

#[test]
fn what_was_acknowledged_survives_kill_9() {
    let rounds = if is_soak() { 20 } else { 2 };
    let mut dice = Dice::new();
    let mut app = TestApp::start();
    let load = Load::mixed(app.base(), CONNECTIONS, "kill");
    for round in 0..rounds {
        load.wait_for(200, Duration::from_secs(60));
        pause(Duration::from_millis(dice.below(700)));
        app.kill9();
        println!("round {round}: killed after {} calls", load.acknowledged());
        app.restart();
        load.point_at(app.base());
    }
    load.wait_for(200, Duration::from_secs(60));
    let journal = load.end();
    println!(
        "{} acknowledged, {} duplicates, {} unanswered, refused {:?}",
        journal.acknowledged.len(),
        journal.duplicates,
        journal.unanswered,
        journal.refused
    );
    assert!(journal.unanswered > 0, "no kill met a call in flight");
    let mut sql = app.sql();
    journal.check(&mut sql, "kill");
    let users = "SELECT count(DISTINCT person_id) FROM identities WHERE kind = 0";
    let users = sql::number(&mut sql, users);
    assert_eq!(users, CONNECTIONS as i64, "each client is one person");
}

#[test]
fn sigterm_under_load_finishes_what_is_in_flight() {
    let mut app = TestApp::start();
    let load = Load::mixed(app.base(), CONNECTIONS, "term");
    load.wait_for(500, Duration::from_secs(60));
    let status = app.terminate(Duration::from_secs(10));
    assert!(
        status.is_some_and(|status| status.success()),
        "{status:?} within 10 s: {}",
        app.server().log()
    );
    app.restart();
    load.point_at(app.base());
    load.wait_for(200, Duration::from_secs(60));
    let journal = load.end();
    journal.check(&mut app.sql(), "term");
    for status in journal.refused.keys() {
        assert!(matches!(status, 429 | 503), "{:?}", journal.refused);
    }
    // What was in flight was answered, not dropped: a client that is answered need not try again.
    assert_eq!(journal.duplicates, 0, "{:?}", journal.refused);
}

#[test]
fn sigterm_without_load_ends_at_once() {
    let mut app = TestApp::start();
    app.nobody().get("/livez").expect(200);
    let status = app.terminate(Duration::from_secs(5));
    assert!(status.is_some_and(|status| status.success()), "{status:?}");
}

#[test]
fn what_was_acknowledged_survives_the_end_of_postgres() {
    // The promise is 2 s and 5 s; other tests run beside the short form.
    let (rounds, refused_within, used_again) = if is_soak() {
        (10, Duration::from_secs(2), Duration::from_secs(5))
    } else {
        (2, Duration::from_secs(4), Duration::from_secs(20))
    };
    let mut dice = Dice::new();
    let mut postgres = postgres_server();
    let launch = Launch::new(&postgres.url());
    let server = Server::start(&launch);
    server.wait_until_ready();
    let load = Load::mixed(server.base(), CONNECTIONS, "pg");
    for _ in 0..rounds {
        load.wait_for(200, Duration::from_secs(60));
        pause(Duration::from_millis(dice.below(500)));
        postgres.kill();
        pause(Duration::from_millis(500 + dice.below(1_000)));
        postgres.start_again();
        load.wait_for(1, used_again);
        load.wait_for(200, Duration::from_secs(60));
    }
    let journal = load.end();
    let slowest = journal.refusal_percentile(100);
    println!(
        "refused {:?}, the slowest took {slowest:?}",
        journal.refused
    );
    assert!(slowest < refused_within, "{slowest:?}");
    for status in journal.refused.keys() {
        assert_eq!(*status, 503, "{:?}", journal.refused);
    }
    assert!(!journal.refused.is_empty(), "Postgres was not missed");
    assert_eq!(journal.unanswered, 0, "the server answers all the same");
    let mut sql = diesel::Connection::establish(&postgres.url()).unwrap();
    journal.check_with_metrics(&mut sql, "pg", server.base());
}

/// What a load could be told about one event that is stored and one that is rejected.
fn promised() -> Journal {
    Journal {
        acknowledged: vec!["j-1".to_owned()],
        tried: vec!["j-1".to_owned(), "j-2".to_owned()],
        ..Journal::default()
    }
}

#[test]
fn the_journal_notices_a_loss_and_a_repetition() {
    let app = TestApp::start();
    let body = json!({"user_id": "u", "event": "e", "event_id": "j-1"});
    app.client().post("/v1/track", &body).expect(200);
    let mut sql = app.sql();
    let mut told = |journal: Journal| complaint(&journal, &mut sql);
    assert_eq!(told(promised()), None);
    let lost = Journal {
        acknowledged: vec!["j-1".to_owned(), "j-2".to_owned()],
        ..promised()
    };
    assert_eq!(told(lost).as_deref(), Some("1 acknowledged and lost"));
    let nothing = Journal::default();
    assert_eq!(told(nothing).as_deref(), Some("1 stored and never sent"));
    sql::run(
        &mut app.sql(),
        "INSERT INTO events SELECT received_on, gen_random_uuid(), project_id, person_id, kind, name,
             user_id, anonymous_id, message_id, properties, context, \"timestamp\", received_at
         FROM events",
    );
    assert_eq!(told(promised()).as_deref(), Some("1 stored more than once"));
}

#[test]
fn the_journal_notices_wrong_ids_and_people_and_what_was_not_kept() {
    let app = TestApp::start();
    let body = json!({"user_id": "u", "event": "e", "event_id": "j-1"});
    app.client().post("/v1/track", &body).expect(200);
    let body = json!({"user_id": "u", "traits": {"counter": 3}});
    app.client().post("/v1/identify", &body).expect(200);
    let mut sql = app.sql();
    let mut told = |journal: Journal| complaint(&journal, &mut sql).unwrap();
    let id = "00000000-0000-0000-0000-000000000000".to_owned();
    let other = Journal {
        told: vec![("j-1".to_owned(), id)],
        ..promised()
    };
    assert_eq!(told(other), "1 told with an id that is not theirs");
    for (acknowledged, sent) in [(4, 5), (1, 2)] {
        let counter = Counter { acknowledged, sent };
        let odd = Journal {
            counters: BTreeMap::from([("u".to_owned(), counter)]),
            ..promised()
        };
        let said = "1 traits older than acknowledged or never sent";
        assert_eq!(told(odd), said, "{counter:?}");
    }
    let apart = Journal {
        links: vec![("a".to_owned(), "u".to_owned())],
        ..promised()
    };
    assert_eq!(told(apart), "1 linked and two people");
    let bad = json!({"batch": [{"type": "track", "event": "e", "messageId": "j-bad"}]});
    for (calls, sure, maybe) in [(0, 1, 1), (2, 1, 0)] {
        for _ in 0..calls {
            app.client().post("/v1/batch", &bad).expect(200);
        }
        let rejections = Rejections { sure, maybe };
        let wrong = Journal {
            rejections: BTreeMap::from([("j-bad".to_owned(), rejections)]),
            ..promised()
        };
        let said = "1 rejections lost or not explained";
        assert_eq!(told(wrong), said, "{rejections:?}");
    }
}

/// What a journal complains of first, without the examples.
fn complaint(journal: &Journal, sql: &mut PgConnection) -> Option<String> {
    let checked = catch_unwind(AssertUnwindSafe(|| journal.check(sql, "j")));
    let said = checked.err()?;
    let said = said.downcast_ref::<String>().unwrap();
    Some(said.split_once(':').unwrap().0.to_owned())
}
