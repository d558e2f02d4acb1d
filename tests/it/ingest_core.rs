//! What ingest and targeting must withstand: a hub without its connection, a database that freezes
//! or restarts, events that no table holds.

use std::time::{Duration, Instant};

use beckon::clock::Clock;
use beckon::error::Error;
use beckon::hub::Hub;
use beckon::ingest::decode::Item;
use beckon::ingest::{Ingest, IngestOptions, Outcome, Submission, Wanted};
use beckon::model::{Call, Event, Identity, ProjectId};
use beckon::store::{Store, StoreOptions};
use beckon::targeting::{Targeting, TargetingOptions};
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::BigInt;
use serde_json::json;

use crate::support::one_shard::{identify, track};
use crate::support::postgres::{TestDatabase, database, empty_database, postgres_server};
use crate::support::sql;

struct Rig {
    store: Store,
    targeting: Targeting,
    ingest: Ingest,
    runtime: tokio::runtime::Runtime,
    _hub: Hub,
}

/// The project that every database has from its first migration.
const PROJECT: ProjectId = ProjectId(1);

fn rig(url: &str) -> Rig {
    let store = Store::new(StoreOptions {
        url: url.to_owned(),
        pool_size: 2,
        deadline: Duration::from_secs(2),
    });
    let targeting = Targeting::new(store.clone(), Clock::system(), TargetingOptions::default());
    let hub = targeting.start().unwrap();
    let options = IngestOptions {
        url: url.to_owned(),
        traits_bytes_max: 1_000,
        ..Default::default()
    };
    let ingest = Ingest::start(targeting.clone(), options).unwrap();
    wait_until("targeting is ready", || targeting.is_ready());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    Rig {
        store,
        targeting,
        ingest,
        runtime,
        _hub: hub,
    }
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(20), "not so: {what}");
        crate::support::pause(Duration::from_millis(20));
    }
}

impl Rig {
    fn submit(&self, project: ProjectId, events: Vec<Event>) -> Result<Vec<Outcome>, Error> {
        let items: Vec<Item> = events
            .into_iter()
            .map(|event| Item::Event(Box::new(event)))
            .collect();
        let request = Submission {
            project,
            received: items.len(),
            items,
            wants: Wanted {
                matches: true,
                traits: true,
            },
        };
        self.runtime.block_on(self.ingest.submit(request))
    }

    fn person(&self, user: &str) -> std::sync::Arc<beckon::targeting::PersonState> {
        let identity = Identity::user(user).unwrap();
        let person = self.targeting.person(PROJECT, &identity);
        self.runtime.block_on(person).unwrap().unwrap()
    }
}

#[derive(QueryableByName)]
struct Count {
    #[diesel(sql_type = BigInt)]
    count: i64,
}

fn count(connection: &mut PgConnection, query: &str) -> i64 {
    let row: Count = sql_query(query).get_result(connection).unwrap();
    row.count
}

/// The hub's connection is what makes this node known to others. Without it another node would
/// think itself alone, so this one must not trust what it remembers.
#[test]
fn without_its_hub_a_node_remembers_nobody() {
    let database = database();
    let rig = rig(&database.url);
    rig.submit(PROJECT, vec![identify("u", None, r#"{"plan":"free"}"#)])
        .unwrap();
    // Read by a connection of the pool, which stays when no other can be made.
    rig.targeting.people().forget_all();
    assert_eq!(rig.person("u").traits_object()["plan"], "free");
    let mut connection = database.connect();
    sql_query("UPDATE pg_database SET datallowconn = false WHERE datname = current_database()")
        .execute(&mut connection)
        .unwrap();
    let sessions = "SELECT count(pg_terminate_backend(pid)) AS count FROM pg_locks \
         WHERE locktype = 'advisory' AND mode = 'ShareLock' \
         AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    // The hub's, and that of the only shard.
    assert_eq!(count(&mut connection, sessions), 2);
    sql_query("UPDATE persons SET traits = '{\"plan\": \"pro\"}'")
        .execute(&mut connection)
        .unwrap();
    crate::support::pause(Duration::from_millis(500));
    assert_eq!(rig.person("u").traits_object()["plan"], "pro");
}

/// An event that was refused is not stored, so another one with its message id is no duplicate.
#[test]
fn a_refused_event_has_no_duplicates_in_its_batch() {
    let database = database();
    let rig = rig(&database.url);
    let huge = json!({"text": "x".repeat(2_000)}).to_string();
    let outcomes = rig
        .submit(
            PROJECT,
            vec![
                identify("u", Some("m"), &huge),
                identify("u", Some("m"), &huge),
                identify("u", Some("m"), r#"{"plan":"free"}"#),
                identify("u", Some("m"), r#"{"plan":"pro"}"#),
            ],
        )
        .unwrap();
    let told: Vec<Option<bool>> = outcomes
        .iter()
        .map(|outcome| match outcome {
            Outcome::Stored(stored) => Some(stored.duplicate),
            _ => None,
        })
        .collect();
    assert_eq!(told, [None, None, Some(false), Some(true)]);
    let mut connection = database.connect();
    assert_eq!(count(&mut connection, "SELECT count(*) FROM events"), 1);
    assert_eq!(
        count(&mut connection, "SELECT count(*) FROM rejected_events"),
        2
    );
    let again = rig.submit(PROJECT, vec![identify("u", Some("m"), "{}")]);
    assert!(matches!(&again.unwrap()[..], [Outcome::Stored(s)] if s.duplicate));
}

/// A project that is gone costs its own events, not those of others that share a batch with them.
#[test]
fn an_event_of_a_project_that_is_gone_is_refused() {
    let database = database();
    let rig = rig(&database.url);
    let outcomes = rig.submit(ProjectId(999), vec![identify("u", None, "{}")]);
    assert!(matches!(&outcomes.unwrap()[..], [Outcome::Rejected(_)]));
}

/// Which of several user ids stands for a person is what the database says, remembered or not.
#[test]
fn a_second_user_id_changes_nothing_by_being_remembered() {
    let database = database();
    let rig = rig(&database.url);
    let alias = alias("a", "b");
    let mut first = identify("b", None, "{}");
    first.received_at = alias.received_at;
    rig.submit(PROJECT, vec![first, alias]).unwrap();
    let remembered = rig.person("a").user_id.clone();
    rig.targeting.people().forget_all();
    assert_eq!(remembered, rig.person("a").user_id);
}

/// Somebody may have more traits than are allowed now: they were imported, or the limit was higher.
/// What does not change them is stored, whether or not an event beside it changes somebody.
#[test]
fn what_changes_no_traits_is_stored_whatever_their_size_and_its_neighbours() {
    let database = database();
    let rig = rig(&database.url);
    let with_device = |traits: Option<&str>| {
        let mut event = identify("u", None, traits.unwrap_or("{}"));
        event.anonymous = Some(Identity::anonymous("device").unwrap());
        if traits.is_none() {
            event.call = Call::Identify { traits: None };
        }
        event
    };
    let first = vec![with_device(Some(r#"{"plan":"free"}"#)), alias("u", "v")];
    rig.submit(PROJECT, first).unwrap();
    let grow =
        "UPDATE persons SET traits = traits || jsonb_build_object('text', repeat('x', 2000))";
    sql::run(&mut database.connect(), grow);
    rig.targeting.people().forget_all();
    let is_stored = |events: Vec<Event>| {
        let outcomes = rig.submit(PROJECT, events).unwrap();
        let is_stored = |outcome: &Outcome| matches!(outcome, Outcome::Stored(_));
        outcomes.iter().map(is_stored).collect::<Vec<bool>>()
    };
    let neighbour = || identify("u", None, r#"{"more":1}"#);
    for event in [
        identify("u", None, r#"{"plan":"free"}"#),
        with_device(Some(r#"{"plan":"free"}"#)),
        with_device(None),
        alias("u", "v"),
        track("u", "e", None),
    ] {
        assert_eq!(is_stored(vec![event.clone()]), [true], "{event:?}");
        let beside = is_stored(vec![event.clone(), neighbour()]);
        assert_eq!(beside, [true, false], "{event:?}");
    }
    // To give them a name that nobody has changes no trait either.
    let mut named = identify("u", None, r#"{"plan":"free"}"#);
    named.anonymous = Some(Identity::anonymous("another").unwrap());
    assert_eq!(is_stored(vec![named]), [true]);
    // To change a trait or to take in somebody else's does.
    rig.submit(PROJECT, vec![identify("w", None, "{}")])
        .unwrap();
    for event in [
        identify("u", None, r#"{"plan":"pro"}"#),
        alias("u", "w"),
        alias("w", "u"),
    ] {
        assert_eq!(is_stored(vec![event.clone()]), [false], "{event:?}");
    }
}

fn alias(user: &str, previous: &str) -> Event {
    let mut event = identify(user, None, "{}");
    event.call = Call::Alias {
        previous: Identity::user(previous).unwrap(),
    };
    event
}

/// How many people a chain of links makes one.
const CHAIN: i64 = 300;

/// Links that make each step's survivor the next one's loser, some of them of people who were
/// linked before, who come with the batch, or whom nobody has seen.
fn chain() -> Vec<Event> {
    let mut links = vec![track("born", "e", None)];
    for number in (2..=CHAIN).rev() {
        let (older, younger) = (format!("u{}", number - 1), format!("u{number}"));
        links.push(alias(&older, &younger));
        match number % 50 {
            0 => links.push(alias(&younger, &format!("side{number}"))),
            1 => links.push(alias(&format!("unseen{number}"), &younger)),
            2 => links.push(alias("born", &older)),
            3 => links.push(identify(&younger, None, &json!({"at": number}).to_string())),
            _ => {}
        }
    }
    links
}

/// Counts each version of a row that replaces another.
fn count_versions(database: &TestDatabase) {
    sql::run(
        &mut database.connect(),
        "CREATE SEQUENCE versions;
         CREATE FUNCTION count_version() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN PERFORM nextval('versions'); RETURN NULL; END $$;
         CREATE TRIGGER versions AFTER UPDATE ON identities
             FOR EACH ROW EXECUTE FUNCTION count_version();
         CREATE TRIGGER versions AFTER UPDATE ON persons
             FOR EACH ROW EXECUTE FUNCTION count_version();",
    );
}

/// Who is who in the end, told by names, and how many versions of rows that took.
fn linked(send: impl Fn(&Rig, Vec<Event>)) -> (Vec<String>, i64) {
    let database = database();
    let rig = rig(&database.url);
    let began = crate::support::now();
    let mut first = Vec::new();
    for number in 1..=CHAIN {
        let traits = json!({"last": number, format!("t{}", number % 5): number}).to_string();
        let mut event = identify(&format!("u{number}"), None, &traits);
        event.received_at = began + chrono::TimeDelta::seconds(number - 2 * CHAIN);
        first.push(event);
        if number % 50 == 0 {
            first.push(identify(&format!("side{number}"), None, r#"{"side":1}"#));
        }
    }
    first.push(identify("before", None, "{}"));
    first.push(alias(&format!("u{CHAIN}"), "before"));
    rig.submit(PROJECT, first).unwrap();
    count_versions(&database);
    send(&rig, chain());
    let mut connection = database.connect();
    let versions = sql::number(&mut connection, "SELECT last_value FROM versions");
    for line in sql::rows(&mut connection, "SELECT value, person_id FROM identities") {
        let remembered = rig.person(line["value"].as_str().unwrap());
        assert_eq!(remembered.id.0, line["person_id"], "{line}");
    }
    let mut told = sql::texts(
        &mut connection,
        "SELECT i.value || ' is ' || p.bucketing_value || ' with ' || p.traits AS value
         FROM identities i JOIN persons p ON p.id = i.person_id ORDER BY 1",
    );
    told.extend(sql::texts(
        &mut connection,
        "SELECT p.bucketing_value || ' became ' || coalesce(heir.bucketing_value, 'nobody') AS value
         FROM persons p LEFT JOIN persons heir ON heir.id = p.merged_into ORDER BY 1",
    ));
    (told, versions)
}

/// A list of links in which each survivor is the next loser costs what its links cost, and leads
/// everybody to the oldest, as the same links do one at a time.
#[test]
fn a_chain_of_links_in_one_batch_writes_each_row_once() {
    let (at_once, versions) = linked(|rig, links| {
        rig.submit(PROJECT, links).unwrap();
    });
    for line in &at_once {
        let ends = [" is u1 with ", " became u1"]
            .iter()
            .any(|end| line.contains(end));
        assert!(ends || line == "u1 became nobody", "{line}");
    }
    // Of each a name and a row, and the traits of the survivor.
    let people = CHAIN + CHAIN / 50 + 2;
    assert!(versions >= CHAIN, "{versions}");
    assert!(
        versions <= 2 * people + 10,
        "{versions} rows for {people} people"
    );
    let (one_by_one, _) = linked(|rig, links| {
        for link in links {
            rig.submit(PROJECT, vec![link]).unwrap();
        }
    });
    assert_eq!(at_once, one_by_one);
}

#[test]
fn a_frozen_and_a_restarted_database_cost_time_and_nothing_else() {
    let mut server = postgres_server();
    let rig = rig(&server.url());
    let send = |message: &str| {
        let began = Instant::now();
        let event = identify("u", Some(message), &json!({ "last": message }).to_string());
        let outcome = rig.submit(PROJECT, vec![event]);
        assert!(
            began.elapsed() < Duration::from_millis(2_500),
            "{:?}",
            began.elapsed()
        );
        outcome
    };
    send("m0").unwrap();
    server.freeze();
    for _ in 0..3 {
        assert!(matches!(send("m1"), Err(Error::DatabaseUnavailable)));
        let began = Instant::now();
        for _ in 0..2 {
            let read = rig
                .store
                .run(|connection| sql_query("SELECT 1").execute(connection));
            assert!(rig.runtime.block_on(read).is_err());
        }
        assert!(began.elapsed() < Duration::from_millis(5_000));
    }
    server.thaw();
    wait_until("events are stored again", || send("m1").is_ok());
    server.kill();
    assert!(matches!(send("m2"), Err(Error::DatabaseUnavailable)));
    server.start_again();
    wait_until("events are stored after a restart", || send("m2").is_ok());
    let read = rig
        .store
        .run(|connection| sql_query("SELECT count(*) FROM events").get_result::<Count>(connection));
    assert_eq!(rig.runtime.block_on(read).unwrap().count, 3);
    assert_eq!(rig.person("u").traits_object()["last"], "m2");
}

/// Neither waiting for another node that migrates nor a long migration is bound by what queries are.
#[test]
fn migrations_are_not_bound_by_the_limits_of_queries() {
    let database = empty_database();
    let mut other = database.connect();
    sql_query("SELECT pg_advisory_lock(x'6265636b6f6e0001'::bigint)")
        .execute(&mut other)
        .unwrap();
    let mut connection = database.connect();
    for setting in ["statement_timeout", "lock_timeout"] {
        sql_query(format!("SET {setting} = '200ms'"))
            .execute(&mut connection)
            .unwrap();
    }
    let migrating = std::thread::spawn(move || {
        beckon::store::migrate::migrate(&mut connection).unwrap();
        connection
    });
    crate::support::pause(Duration::from_millis(600));
    drop(other);
    let mut connection = migrating.join().unwrap();
    let slow = sql_query("SELECT pg_sleep(1)").execute(&mut connection);
    assert!(slow.is_err(), "the session's own limits hold again");
}

/// Errors are told apart by their texts, so a server that speaks another language is asked to speak
/// English.
#[test]
fn the_database_answers_in_english() {
    let database = database();
    sql_query(format!(
        "ALTER DATABASE {} SET lc_messages = 'POSIX'",
        database.name
    ))
    .execute(&mut database.connect())
    .unwrap();
    let mut connection = beckon::store::connect(&database.url).unwrap();
    let english = "SELECT count(*) WHERE current_setting('lc_messages') = 'C'";
    assert_eq!(count(&mut connection, english), 1);
}
