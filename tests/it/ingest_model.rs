//! Ingest against its slow, obvious twin: a list of people and a map of message ids, changed one
//! event at a time, while days pass and retention runs.

mod model;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use beckon::clock::Clock;
use beckon::hub::Hub;
use beckon::ingest::decode::Item;
use beckon::ingest::{Ingest, IngestOptions, Outcome, Submission, Wanted};
use beckon::model::{EventId, Identity, IdentityKind, MessageId, ProjectId, parse_object};
use beckon::retention::{self, Mode, RetentionOptions};
use beckon::store::partitions;
use beckon::store::{Store, StoreOptions};
use beckon::targeting::{Targeting, TargetingOptions};
use chrono::{DateTime, Days, TimeDelta, Utc};
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Int4, Jsonb, SmallInt, Text};
use model::{Model, Op, RETENTION_DAYS, Sent, Step, WINDOW_DAYS, anonymous, event, steps, user};
use serde_json::Value;

use crate::support::is_soak;
use crate::support::postgres::{TestDatabase, database};
use crate::support::property::run;

struct Rig {
    database: TestDatabase,
    targeting: Targeting,
    ingest: Ingest,
    _hub: Hub,
}

fn rig(cache_bytes: u64, shards: usize) -> Rig {
    let database = database();
    let clock = Clock::system();
    let store = Store::new(StoreOptions {
        url: database.url.clone(),
        pool_size: 4,
        deadline: std::time::Duration::from_secs(20),
    });
    let options = TargetingOptions {
        people_cache_bytes: cache_bytes,
        ..Default::default()
    };
    let targeting = Targeting::new(store, clock, options);
    let hub = targeting.start().unwrap();
    let options = IngestOptions {
        url: database.url.clone(),
        shards,
        deadline: std::time::Duration::from_secs(20),
        ..Default::default()
    };
    let ingest = Ingest::start(targeting.clone(), options).unwrap();
    let waited = std::time::Instant::now();
    while !targeting.is_ready() {
        assert!(
            waited.elapsed().as_secs() < 20,
            "targeting did not become ready"
        );
        crate::support::pause(std::time::Duration::from_millis(10));
    }
    Rig {
        database,
        targeting,
        ingest,
        _hub: hub,
    }
}

fn new_project(connection: &mut PgConnection) -> ProjectId {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = BigInt)]
        id: i64,
    }
    let row: Row = sql_query(
        "WITH p AS (INSERT INTO projects (name, retention_days) \
         VALUES (gen_random_uuid()::text, $1) RETURNING id) \
         INSERT INTO project_revisions (project_id) SELECT id FROM p RETURNING project_id AS id",
    )
    .bind::<Int4, _>(i32::try_from(RETENTION_DAYS).unwrap())
    .get_result(connection)
    .unwrap();
    ProjectId(row.id)
}

#[derive(QueryableByName, Debug)]
struct IdentityRow {
    #[diesel(sql_type = SmallInt)]
    kind: i16,
    #[diesel(sql_type = Text)]
    value: String,
    #[diesel(sql_type = BigInt)]
    person_id: i64,
    #[diesel(sql_type = Jsonb)]
    traits: Value,
}

fn identity_rows(connection: &mut PgConnection, project: ProjectId) -> Vec<IdentityRow> {
    sql_query(
        "SELECT i.kind, i.value, i.person_id, p.traits FROM identities i \
         JOIN persons p ON p.id = i.person_id AND p.merged_into IS NULL \
         WHERE i.project_id = $1",
    )
    .bind::<BigInt, _>(project.0)
    .load(connection)
    .unwrap()
}

#[derive(QueryableByName)]
struct DayRow {
    #[diesel(sql_type = diesel::sql_types::Date)]
    day: chrono::NaiveDate,
}

#[derive(QueryableByName)]
struct EventRow {
    #[diesel(sql_type = diesel::sql_types::Uuid)]
    id: uuid::Uuid,
    #[diesel(sql_type = BigInt)]
    person: i64,
}

/// Days pass for what is stored, and retention runs.
fn pass(rig: &Rig, project: ProjectId, days: u32) {
    let mut connection = rig.database.connect();
    let aged: Vec<DayRow> = sql_query(
        "SELECT DISTINCT received_on AS day FROM events WHERE project_id = $1 ORDER BY 1",
    )
    .bind::<BigInt, _>(project.0)
    .load(&mut connection)
    .unwrap();
    for DayRow { day } in aged {
        partitions::ensure_day(&mut connection, day - Days::new(days.into())).unwrap();
    }
    sql_query(
        "UPDATE events SET received_on = received_on - $2, \
         received_at = received_at - make_interval(days => $2) WHERE project_id = $1",
    )
    .bind::<BigInt, _>(project.0)
    .bind::<Int4, _>(i32::try_from(days).unwrap())
    .execute(&mut connection)
    .unwrap();
    sql_query("UPDATE message_buckets SET rotated_at = rotated_at - make_interval(days => $1)")
        .bind::<Int4, _>(i32::try_from(days).unwrap())
        .execute(&mut connection)
        .unwrap();
    let options = RetentionOptions {
        partitions_ahead_days: 1,
        dedupe_window_days: WINDOW_DAYS,
        rejected_retention_days: 30,
    };
    retention::run(&mut connection, &Clock::system(), &options, Mode::Run).unwrap();
}

/// A history: the twin, and the ids under which the product stored the events.
struct History<'a> {
    rig: &'a Rig,
    runtime: &'a tokio::runtime::Runtime,
    project: ProjectId,
    model: Model,
    ids: Vec<EventId>,
    at: DateTime<Utc>,
}

impl History<'_> {
    fn request(&mut self, request: &[Sent]) {
        let mut items = Vec::new();
        for sent in request {
            self.at += TimeDelta::seconds(97);
            items.push(Item::Event(Box::new(event(sent, self.at))));
        }
        let submission = Submission {
            project: self.project,
            items,
            received: request.len(),
            wants: Wanted {
                matches: true,
                traits: true,
            },
        };
        let submitted = self.rig.ingest.submit(submission);
        let outcomes = self.runtime.block_on(submitted).unwrap();
        assert_eq!(outcomes.len(), request.len());
        for (sent, outcome) in request.iter().zip(outcomes) {
            let (place, duplicate, traits) = self.model.apply(sent);
            let Outcome::Stored(stored) = outcome else {
                panic!("{sent:?} was not stored")
            };
            assert_eq!(stored.duplicate, duplicate, "{sent:?}");
            if duplicate {
                assert_eq!(stored.id, self.ids[place], "{sent:?}");
            } else {
                assert_eq!(place, self.ids.len());
                self.ids.push(stored.id);
                assert_eq!(
                    parse_object(stored.traits.as_deref().unwrap()),
                    traits,
                    "{sent:?}"
                );
            }
        }
    }

    /// What is stored in the end, and what is remembered of it.
    fn check(&self, connection: &mut PgConnection) {
        let (project, model) = (self.project, &self.model);
        let rows = identity_rows(connection, project);
        assert_eq!(rows.len(), model.identities.len(), "{rows:?} {model:?}");
        let mut number_of: HashMap<usize, i64> = HashMap::new();
        for row in &rows {
            let kind = IdentityKind::from_i16(row.kind).unwrap();
            let identity = Identity::parse(kind, &row.value).unwrap();
            let person = model.find(&identity).unwrap();
            let number = *number_of.entry(person).or_insert(row.person_id);
            assert_eq!(number, row.person_id);
            let traits = Value::Object(model.people[person].traits.clone());
            assert_eq!(row.traits, traits);
            let remembered = self.rig.targeting.person(project, &identity);
            let remembered = self.runtime.block_on(remembered).unwrap();
            assert_eq!(
                Value::Object(remembered.unwrap().traits_object()),
                row.traits
            );
        }
        let events: Vec<EventRow> = sql_query(
            "SELECT e.id, coalesce(p.merged_into, p.id) AS person FROM events e \
             JOIN persons p ON p.id = e.person_id WHERE e.project_id = $1",
        )
        .bind::<BigInt, _>(project.0)
        .load(connection)
        .unwrap();
        let kept = model.events.iter().filter(|event| event.is_kept());
        assert_eq!(events.len(), kept.count());
        for row in events {
            let place = self.ids.iter().position(|id| id.0 == row.id).unwrap();
            let event = &model.events[place];
            assert!(event.is_kept(), "{event:?}");
            let person = model.survivor(event.person);
            assert_eq!(number_of.get(&person), Some(&row.person));
        }
    }
}

/// Runs a history; returns how many events were stored under a message id that had been forgotten.
fn check(rig: &Rig, runtime: &tokio::runtime::Runtime, steps: &[Step]) -> u32 {
    let mut connection = rig.database.connect();
    let project = new_project(&mut connection);
    sql_query("UPDATE message_buckets SET rotated_at = now()")
        .execute(&mut connection)
        .unwrap();
    let start = DateTime::parse_from_rfc3339("2026-01-01T00:00:00Z").unwrap();
    let mut history = History {
        rig,
        runtime,
        project,
        model: Model::default(),
        ids: Vec::new(),
        at: start.to_utc(),
    };
    for step in steps {
        match step {
            Step::Request(request) => history.request(request),
            Step::Forget => rig.targeting.people().forget_all(),
            Step::Pass(days) => {
                pass(rig, project, *days);
                history.model.pass(*days);
            }
        }
    }
    history.check(&mut connection);
    // Retention looks after each project that there is.
    sql_query("DELETE FROM projects WHERE id = $1")
        .bind::<BigInt, _>(project.0)
        .execute(&mut connection)
        .unwrap();
    history.model.stored_again
}

fn run_histories(cache_bytes: u64, shards: usize) {
    let rig = rig(cache_bytes, shards);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let cases = if is_soak() { 5_000 } else { 40 };
    let stored_again = AtomicU32::new(0);
    run(cases, steps(), |steps| {
        stored_again.fetch_add(check(&rig, &runtime, &steps), Ordering::Relaxed);
        Ok(())
    });
    let stored_again = stored_again.into_inner();
    assert!(stored_again >= cases / 40, "{stored_again} in {cases}");
    assert!(rig.ingest.close(std::time::Duration::from_secs(10)));
}

#[test]
fn random_histories_equal_the_model() {
    run_histories(64 << 20, 3);
}

#[test]
fn random_histories_equal_the_model_without_caches() {
    run_histories(0, 2);
}

/// Many callers change the same few people at once. Whatever order it came to, what is remembered
/// afterwards is what the database says, and each message id was stored once.
#[test]
fn concurrent_changes_leave_no_stale_state() {
    let rig = Arc::new(rig(64 << 20, 4));
    let project = new_project(&mut rig.database.connect());
    const CALLERS: u8 = 8;
    const ROUNDS: u8 = 40;
    // In one round of eight all callers send the same message id, and one of them is stored.
    let is_shared = |round: u8| round % 8 == 7;
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let rig = Arc::clone(&rig);
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap();
                for round in 0..ROUNDS {
                    let number = (caller ^ round) % 3;
                    let op = match (caller.wrapping_add(round)) % 5 {
                        0 => Op::Track(anonymous(number)),
                        1 => Op::Alias {
                            user: number,
                            previous: anonymous(number),
                        },
                        2 => Op::IdentifyAnonymous {
                            anonymous: number,
                            traits: vec![(caller, round)],
                        },
                        _ => Op::Identify {
                            user: number,
                            anonymous: Some(round % 3),
                            traits: vec![(caller, round)],
                        },
                    };
                    let sent = Sent { op, message: None };
                    let mut event = event(&sent, crate::support::now());
                    let id = if is_shared(round) {
                        format!("round {round}")
                    } else {
                        format!("round {round} of {caller}")
                    };
                    event.message_id = Some(MessageId::parse(&id).unwrap());
                    let items = vec![Item::Event(Box::new(event))];
                    let submission = Submission {
                        project,
                        items,
                        received: 1,
                        wants: Wanted {
                            matches: true,
                            traits: true,
                        },
                    };
                    runtime.block_on(rig.ingest.submit(submission)).unwrap();
                    let who = user(number);
                    runtime
                        .block_on(rig.targeting.person(project, &who))
                        .unwrap();
                }
            })
        })
        .collect();
    for caller in callers {
        caller.join().unwrap();
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut connection = rig.database.connect();
    let rows = identity_rows(&mut connection, project);
    assert!(!rows.is_empty());
    for row in rows {
        let kind = IdentityKind::from_i16(row.kind).unwrap();
        let identity = Identity::parse(kind, &row.value).unwrap();
        let remembered = runtime
            .block_on(rig.targeting.person(project, &identity))
            .unwrap();
        let remembered = remembered.unwrap();
        assert_eq!(
            Value::Object(remembered.traits_object()),
            row.traits,
            "{identity:?}"
        );
        assert_eq!(remembered.id.0, row.person_id, "{identity:?}");
    }
    #[derive(QueryableByName)]
    struct Count {
        #[diesel(sql_type = BigInt)]
        count: i64,
    }
    let stored: Count = sql_query("SELECT count(*) FROM events WHERE project_id = $1")
        .bind::<BigInt, _>(project.0)
        .get_result(&mut connection)
        .unwrap();
    let ids = (0..ROUNDS).map(|round| {
        if is_shared(round) {
            1
        } else {
            i64::from(CALLERS)
        }
    });
    assert_eq!(stored.count, ids.sum::<i64>());
}
