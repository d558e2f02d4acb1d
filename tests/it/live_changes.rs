//! A node that follows changes of campaigns holds what the database does, whatever made the changes
//! and in whatever order they were committed.

use std::time::Duration;

use beckon::clock::Clock;
use beckon::error::Error;
use beckon::model::ProjectId;
use beckon::store::{Store, StoreOptions, live};
use beckon::targeting::{Targeting, TargetingMetrics, TargetingOptions};
use beckon::telemetry::metrics::Metrics;
use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Text};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::support::postgres::{TestDatabase, database};
use crate::support::property::run;
use crate::support::sql::{self, KeyRow};
use crate::support::{TestApp, eventually, is_soak};

const PROJECT: ProjectId = ProjectId(1);

/// More than are followed one by one.
const MANY: u16 = 700;

const OTHER_CLIENT: &str = "client_key_of_another_project_0123456789";
const OTHER_READER: &str = "read_key_of_another_project_0123456789";
const NEW_CLIENT: &str = "client_key_of_a_new_project_0123456789abc";

const SOON: Duration = Duration::from_secs(20);

#[derive(Debug, Clone)]
enum Step {
    /// A change as the API makes one.
    Change(Write),
    /// Something that a long transaction beside it does, as an import might.
    Beside(Write),
    /// The long transaction ends.
    Commit,
    RollBack,
}

#[derive(Debug, Clone)]
enum Write {
    Put {
        number: u8,
        priority: u8,
        is_active: bool,
    },
    Delete {
        number: u8,
    },
    PutMany {
        priority: u8,
    },
    DeleteAll,
}

fn write() -> impl Strategy<Value = Write> {
    prop_oneof![
        12 => (0..8_u8, 0..4_u8, prop::bool::weighted(0.8)).prop_map(
            |(number, priority, is_active)| Write::Put { number, priority, is_active },
        ),
        4 => (0..8_u8).prop_map(|number| Write::Delete { number }),
        1 => (0..4_u8).prop_map(|priority| Write::PutMany { priority }),
        1 => Just(Write::DeleteAll),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => write().prop_map(Step::Change),
        4 => write().prop_map(Step::Beside),
        2 => Just(Step::Commit),
        1 => Just(Step::RollBack),
    ]
}

impl Write {
    /// `side` keeps the two writers apart, as they would wait for each other's rows.
    fn run(&self, connection: &mut PgConnection, side: &str) -> QueryResult<usize> {
        let put = |connection: &mut PgConnection, numbers: (i64, i64), priority: u8, is_active| {
            let status = if is_active { "active" } else { "paused" };
            let body = format!(r#"{{"status":"{status}","trigger":"e","priority":{priority}}}"#);
            sql_query(
                "INSERT INTO campaigns (project_id, id, name, status, body, created_at) \
                 SELECT $1, $2 || n, 'c', $5, $6::json, 'epoch' FROM generate_series($3, $4) n \
                 ON CONFLICT (project_id, id) DO UPDATE SET status = excluded.status, \
                 body = excluded.body, version = campaigns.version + 1",
            )
            .bind::<BigInt, _>(PROJECT.0)
            .bind::<Text, _>(side)
            .bind::<BigInt, _>(numbers.0)
            .bind::<BigInt, _>(numbers.1)
            .bind::<Text, _>(status)
            .bind::<Text, _>(body)
            .execute(connection)
        };
        let delete = |connection: &mut PgConnection, pattern: String| {
            sql_query("DELETE FROM campaigns WHERE project_id = $1 AND id LIKE $2")
                .bind::<BigInt, _>(PROJECT.0)
                .bind::<Text, _>(pattern)
                .execute(connection)
        };
        match *self {
            Write::Put {
                number,
                priority,
                is_active,
            } => {
                let number = i64::from(number);
                put(connection, (number, number), priority, is_active)
            }
            Write::PutMany { priority } => put(connection, (0, MANY.into()), priority, true),
            Write::Delete { number } => delete(connection, format!("{side}{number}")),
            Write::DeleteAll => delete(connection, format!("{side}%")),
        }
    }
}

#[derive(Debug, QueryableByName, PartialEq, Eq)]
struct Row {
    #[diesel(sql_type = Text)]
    id: String,
    #[diesel(sql_type = BigInt)]
    seq: i64,
    #[diesel(sql_type = BigInt)]
    version: i64,
}

struct Rig {
    database: TestDatabase,
    targeting: Targeting,
    metrics: Metrics,
    runtime: tokio::runtime::Runtime,
}

impl Rig {
    fn change(&self, write: Option<Write>) {
        let changed = self.targeting.change(PROJECT, move |connection| {
            if let Some(write) = write {
                write.run(connection, "a")?;
            }
            Ok::<_, Error>(())
        });
        self.runtime.block_on(changed).unwrap();
    }

    /// Makes the database as it would be had the last changes never been made, and perhaps others: the
    /// triggers know nothing of it. The node has to connect again.
    fn go_back(&self, revisions: i64) {
        let body = r#"{"status":"active","trigger":"e","priority":3}"#;
        let mut other = self.database.connect();
        other
            .batch_execute(&format!(
                "SET session_replication_role = replica; \
                 DELETE FROM campaigns WHERE id = 'a0'; \
                 UPDATE campaigns SET body = '{body}' WHERE id = 'a1'; \
                 UPDATE project_revisions SET revision = revision + {revisions}; \
                 SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' \
                 AND mode = 'ShareLock' AND database = \
                 (SELECT oid FROM pg_database WHERE datname = current_database())"
            ))
            .unwrap();
    }

    fn wait_for_the_other_history(&self) {
        let in_table = self.listed();
        eventually("the node holds the other history", SOON, || {
            let snapshot = self.targeting.snapshot(PROJECT);
            let is_new = snapshot.campaigns().iter().all(|it| it.json.contains(":3"));
            (is_new && self.held() == in_table).then_some(())
        });
    }

    fn check(&self) {
        assert_eq!(self.held(), self.listed());
    }

    /// What a list of the table says.
    fn listed(&self) -> Vec<Row> {
        sql_query(
            "SELECT id, seq, version FROM campaigns WHERE project_id = $1 AND status = 'active' \
             ORDER BY seq",
        )
        .bind::<BigInt, _>(PROJECT.0)
        .load(&mut self.database.connect())
        .unwrap()
    }

    /// What the node holds.
    fn held(&self) -> Vec<Row> {
        let snapshot = self.targeting.snapshot(PROJECT);
        let held = snapshot.campaigns().iter().map(|campaign| Row {
            id: campaign.id.clone(),
            seq: campaign.stored().0,
            version: campaign.stored().1,
        });
        let mut held: Vec<Row> = held.collect();
        held.sort_by_key(|row| row.seq);
        held
    }
}

fn rig() -> Rig {
    let database = database();
    let store = Store::new(StoreOptions {
        url: database.url.clone(),
        pool_size: 2,
        deadline: Duration::from_secs(10),
    });
    let metrics = Metrics::new();
    let options = TargetingOptions {
        metrics: TargetingMetrics::new(&metrics),
        ..TargetingOptions::default()
    };
    Rig {
        targeting: Targeting::new(store, Clock::system(), options),
        metrics,
        runtime: tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap(),
        database,
    }
}

/// Makes loading this project fail as it does where it takes too long.
fn make_unreadable(connection: &mut PgConnection, project: i64) {
    connection
        .batch_execute(&format!(
            "CREATE FUNCTION slow(project bigint) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN \
                 IF project = {project} THEN \
                     RAISE EXCEPTION 'canceling statement due to statement timeout' \
                     USING ERRCODE = 'query_canceled'; \
                 END IF; \
                 RETURN true; END $$; \
             INSERT INTO feature_flags (project_id, key, enabled, created_at) \
                 VALUES ({project}, 'f', true, now()); \
             ALTER TABLE feature_flags RENAME TO flags; \
             CREATE VIEW feature_flags AS SELECT * FROM flags WHERE slow(project_id)"
        ))
        .unwrap();
}

fn make_readable(connection: &mut PgConnection) {
    connection
        .batch_execute("CREATE OR REPLACE VIEW feature_flags AS SELECT * FROM flags")
        .unwrap();
}

/// A standby that took over may lack the last transactions, and uses their numbers again for others.
#[test]
fn a_node_that_connects_again_holds_what_another_history_led_to() {
    let rig = rig();
    let _hub = rig.targeting.start().unwrap();
    eventually("the node is ready", SOON, || {
        rig.targeting.is_ready().then_some(())
    });
    let put = |number, priority| {
        rig.change(Some(Write::Put {
            number,
            priority,
            is_active: true,
        }));
    };
    for revisions in [-1, 0, 1] {
        put(0, 1);
        put(1, 1);
        rig.check();
        rig.go_back(revisions);
        rig.wait_for_the_other_history();
    }
}

/// Nor is what it holds good for anything if it cannot read a project at once.
#[test]
fn another_history_is_held_though_it_could_not_be_read_at_first() {
    let rig = rig();
    let _hub = rig.targeting.start().unwrap();
    eventually("the node is ready", SOON, || {
        rig.targeting.is_ready().then_some(())
    });
    for number in [0, 1] {
        rig.change(Some(Write::Put {
            number,
            priority: 1,
            is_active: true,
        }));
    }
    let mut connection = rig.database.connect();
    make_unreadable(&mut connection, PROJECT.0);
    rig.go_back(-1);
    eventually("the project could not be read", SOON, || {
        let text = rig.metrics.text();
        let none = "beckon_snapshot_reloads_total{result=\"failed\"} 0";
        (!text.lines().any(|line| line == none)).then_some(())
    });
    make_readable(&mut connection);
    rig.wait_for_the_other_history();
}

/// It may be too large for the time a statement has, which looks like a database in trouble.
#[test]
fn a_project_that_cannot_be_loaded_keeps_no_other_one_waiting() {
    let rig = rig();
    let mut connection = rig.database.connect();
    let other = sql::project(&mut connection, "other");
    make_unreadable(&mut connection, other);
    let _hub = rig.targeting.start().unwrap();
    eventually("the node is ready", SOON, || {
        rig.targeting.is_ready().then_some(())
    });
    // Nor does it when somebody says that it has changed.
    for number in 0..3 {
        Write::Put {
            number,
            priority: 1,
            is_active: true,
        }
        .run(&mut connection, "a")
        .unwrap();
        for project in [other, PROJECT.0] {
            live::bump_revision(&mut connection, project).unwrap();
            live::notify_change(&mut connection, project).unwrap();
        }
        eventually("the change is live", SOON, || {
            (rig.held().len() == usize::from(number) + 1).then_some(())
        });
    }
    make_readable(&mut connection);
    eventually("the other one is there too", SOON, || {
        let snapshot = rig.targeting.snapshot(ProjectId(other));
        (snapshot.revision() > 0).then_some(())
    });
}

/// That nothing is known of it does not mean that it has no campaigns.
#[test]
fn nothing_is_decided_for_a_project_that_was_never_loaded() {
    let app = TestApp::prepared(&[], |connection| {
        let other = sql::project(connection, "other");
        KeyRow::good(other, "client", OTHER_CLIENT).insert(connection);
        KeyRow::good(other, "read", OTHER_READER).insert(connection);
        make_unreadable(connection, other);
    });
    let event = json!({"user_id": "u", "event": "e"});
    let flag = "/v1/features/f?user_id=u";
    let campaigns = "/v1/campaigns?user_id=u";
    let other = app.with_key(OTHER_CLIENT);
    let refused = [
        other.post("/v1/track", &event),
        other.get(flag),
        other.get(campaigns),
        // Whoever it is: the answer would say that they are in no segment.
        app.with_key(OTHER_READER).get("/v1/admin/users/u"),
    ];
    for answer in refused {
        answer.expect_problem(503, "database_unavailable");
    }
    let client = app.client();
    client.post("/v1/track", &event).expect(200);
    client.get(flag).expect(200);
    client.get(campaigns).expect(200);
    // Nor is one kept waiting that is new.
    let mut connection = app.sql();
    let new = sql::project(&mut connection, "new");
    KeyRow::good(new, "client", NEW_CLIENT).insert(&mut connection);
    let new = app.with_key(NEW_CLIENT);
    new.post("/v1/track", &event).expect(200);
    make_readable(&mut connection);
    eventually("the other project is loaded", SOON, || {
        (other.post("/v1/track", &event).status == 200).then_some(())
    });
    assert_eq!(other.get(flag).expect(200)["enabled"], true);
}

/// Who saves expects that it takes effect at once.
#[test]
fn a_change_that_cannot_be_read_back_is_said_to_be_not_live_yet() {
    let app = TestApp::start();
    let (admin, client) = (app.admin(), app.client());
    let mut connection = app.sql();
    let project = sql::default_project(&mut connection);
    make_unreadable(&mut connection, project);
    let warned = |answer: &Value| {
        let warnings = answer["warnings"].as_array().unwrap();
        let warnings = warnings.iter().filter(|it| it["code"] == "not_live_yet");
        let messages: Vec<_> = warnings.map(|it| it["message"].as_str().unwrap()).collect();
        let [message] = *messages else {
            panic!("{answer}");
        };
        assert!(message.starts_with("the change is stored"), "{message}");
    };
    let campaign = json!({"name": "c", "status": "active"});
    let saved = admin.post("/v1/admin/campaigns", &campaign).expect(201);
    warned(&saved);
    let path = format!("/v1/admin/campaigns/{}", saved["id"].as_str().unwrap());
    warned(&admin.put(&path, &json!({"priority": 1})).expect(200));
    let segment = json!({"name": "s"});
    let segment = admin.post("/v1/admin/segments", &segment).expect(201);
    warned(&segment);
    // What is deleted is not saved.
    let gone = format!("/v1/admin/segments/{}", segment["id"].as_str().unwrap());
    warned(&admin.delete(&gone).expect(200));
    let shown = || {
        let answer = client.get("/v1/campaigns?user_id=u").expect(200);
        answer["campaigns"].as_array().unwrap().len()
    };
    assert_eq!(shown(), 0);
    make_readable(&mut connection);
    eventually("it is live", SOON, || (shown() == 1).then_some(()));
    let saved = admin.put(&path, &json!({"priority": 2})).expect(200);
    assert_eq!(saved["warnings"], Value::Null);
}

#[test]
fn a_node_that_follows_changes_holds_what_the_database_does() {
    let rig = rig();
    let cases = if is_soak() { 500 } else { 10 };
    run(cases, prop::collection::vec(step(), 1..30), |steps| {
        let mut beside = rig.database.connect();
        beside.batch_execute("BEGIN").unwrap();
        for step in steps {
            match step {
                Step::Change(write) => rig.change(Some(write)),
                Step::Beside(write) => {
                    write.run(&mut beside, "b").unwrap();
                }
                Step::Commit => beside.batch_execute("COMMIT; BEGIN").unwrap(),
                Step::RollBack => beside.batch_execute("ROLLBACK; BEGIN").unwrap(),
            }
            rig.change(None);
            rig.check();
        }
        Ok(())
    });
}

/// Numbers of transactions that a dump of an older cluster brought are no changes, whatever comes after.
#[test]
fn changes_of_another_cluster_are_not_followed_for_ever() {
    let database = database();
    let mut connection = beckon::store::connect(&database.url).unwrap();
    let before = live::moment(&mut connection).unwrap();
    let changes = |id: &str, xid: &str| {
        format!(
            "INSERT INTO campaign_changes (project_id, campaign_id, xid) \
             VALUES ({}, '{id}', {xid})",
            PROJECT.0
        )
    };
    sql::run(&mut connection, &changes("restored", "'5000000000'"));
    sql::run(&mut connection, &changes("changed", "pg_current_xact_id()"));
    let changed = live::changed_since(&mut connection, PROJECT.0, &before, 10).unwrap();
    assert_eq!(changed, ["changed"]);
}
