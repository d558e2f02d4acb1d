//! What a server promised before it was killed or asked to stop is kept.
//!
//! kill -9 leaves the page cache as it is, so these tests cannot see a lazy fsync; that the
//! settings are durable is asserted where the server reads them.

use std::time::Duration;

use crate::support::app::{Launch, Server};
use crate::support::journal::Load;
use crate::support::postgres::postgres_server;
use crate::support::property::seed;
use crate::support::sql::KeyRow;
use crate::support::{TestApp, is_soak, pause, sql};

const CONNECTIONS: usize = 64;

/// Random numbers that can be had again.
struct Dice(u64);

impl Dice {
    fn new() -> Self {
        Self(seed())
    }

    /// Evenly from 0 to below `bound` (xorshift, after a splash so that small seeds differ).
    fn below(&mut self, bound: u64) -> u64 {
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
    let load = Load::start(app.base(), CONNECTIONS, "kill");
    for round in 0..rounds {
        load.wait_for(200, Duration::from_secs(60));
        pause(Duration::from_millis(dice.below(700)));
        app.kill9();
        println!("round {round}: killed after {} events", load.acknowledged());
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
    journal.check(&mut app.sql(), "kill");
    let mut sql = app.sql();
    let people = sql::number(
        &mut sql,
        "SELECT count(*) FROM persons WHERE merged_into IS NULL",
    );
    assert_eq!(people, CONNECTIONS as i64, "each client is one person");
    let lost_people = sql::number(
        &mut sql,
        "SELECT count(*) FROM events e WHERE NOT EXISTS
             (SELECT FROM persons p WHERE p.id = e.person_id AND p.project_id = e.project_id)",
    );
    assert_eq!(lost_people, 0, "every event's person is there");
}

#[test]
fn sigterm_under_load_finishes_what_is_in_flight() {
    let mut app = TestApp::start();
    let load = Load::start(app.base(), CONNECTIONS, "term");
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
    let rounds = if is_soak() { 10 } else { 2 };
    let mut dice = Dice::new();
    let mut postgres = postgres_server();
    let launch = Launch::new(&postgres.url());
    let server = Server::start(&launch);
    server.wait_until_ready();
    let load = Load::start(server.base(), CONNECTIONS, "pg");
    for _ in 0..rounds {
        load.wait_for(200, Duration::from_secs(60));
        pause(Duration::from_millis(dice.below(500)));
        postgres.kill();
        pause(Duration::from_millis(500 + dice.below(1_000)));
        postgres.start_again();
        load.wait_for(200, Duration::from_secs(20));
    }
    let journal = load.end();
    for status in journal.refused.keys() {
        assert_eq!(*status, 503, "{:?}", journal.refused);
    }
    assert!(!journal.refused.is_empty(), "Postgres was not missed");
    assert_eq!(journal.unanswered, 0, "the server answers all the same");
    let mut sql = diesel::Connection::establish(&postgres.url()).unwrap();
    journal.check(&mut sql, "pg");
    drop(server);
}

#[test]
fn the_journal_notices_a_loss_and_a_repetition() {
    use crate::support::journal::Journal;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    let app = TestApp::prepared(&[], |sql| {
        let project = sql::default_project(sql);
        KeyRow::good(project, "client", "any_key_0123456789").insert(sql);
    });
    let body = serde_json::json!({"user_id": "u", "event": "e", "event_id": "j-1"});
    app.client().post("/v1/track", &body).expect(200);
    let mut sql = app.sql();
    let mut check = |acknowledged: &[&str], tried: &[&str]| {
        let owned = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect();
        let journal = Journal {
            acknowledged: owned(acknowledged),
            tried: owned(tried),
            ..Journal::default()
        };
        catch_unwind(AssertUnwindSafe(|| journal.check(&mut sql, "j"))).is_ok()
    };
    assert!(check(&["j-1"], &["j-1", "j-2"]));
    assert!(!check(&["j-1", "j-2"], &["j-1", "j-2"]), "a loss");
    assert!(!check(&[], &[]), "never sent");
    sql::run(
        &mut app.sql(),
        "INSERT INTO events SELECT received_on, gen_random_uuid(), project_id, person_id, kind, name,
             user_id, anonymous_id, message_id, properties, context, \"timestamp\", received_at
         FROM events",
    );
    assert!(!check(&["j-1"], &["j-1"]), "twice");
}
