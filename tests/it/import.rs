//! Import, its verification and its rollback, on a small file with every odd record there is.

mod rollback;

use std::path::{Path, PathBuf};

use beckon::model::ProjectId;
use beckon::store::partitions;
use beckon::transfer::{self, Mode, Report, RollbackReport, Section, Tally};
use diesel::PgConnection;
use serde_json::{Value, json};

use super::support::postgres::{TestDatabase, database};
use super::support::{TestApp, eventually, sql};

const EVENT: &str = "2a07bfc9-dd99-4728-904e-2afa244cbd86";

fn file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/import/data.json")
}

pub fn fresh() -> (TestDatabase, PgConnection, ProjectId) {
    let database = database();
    let mut connection = beckon::store::connect(&database.url).unwrap();
    let project = ProjectId(sql::default_project(&mut connection));
    (database, connection, project)
}

fn import_as(connection: &mut PgConnection, project: ProjectId, mode: Mode) -> Report {
    let file = transfer::read(&file()).unwrap();
    transfer::import(connection, project, &file, mode, &mut |_, _| {}).unwrap()
}

/// Imports a file of this text, which is verified.
pub fn import_text(connection: &mut PgConnection, project: ProjectId, text: &str) -> Report {
    let file = transfer::built_in("data.json", text.as_bytes()).unwrap();
    let mode = Mode::Import;
    let report = transfer::import(connection, project, &file, mode, &mut |_, _| {}).unwrap();
    assert!(report.verified(), "{:?}", report.verification);
    report
}

fn import(connection: &mut PgConnection, project: ProjectId) -> Report {
    let report = import_as(connection, project, Mode::Import);
    assert!(report.verified(), "{:?}", report.verification);
    report
}

pub fn roll_back(connection: &mut PgConnection, project: ProjectId, force: bool) -> RollbackReport {
    let run = sql::number(connection, "SELECT max(id) FROM import_runs");
    transfer::rollback(connection, project, run, force).unwrap()
}

/// Every row an import may touch, without numbers that a sequence hands out and times of writing.
fn everything(connection: &mut PgConnection) -> Vec<Value> {
    let tables = [
        "SELECT id, name, status, trigger, body, version, created_at, updated_at FROM campaigns \
         ORDER BY id",
        "SELECT id, name, body, created_at, updated_at FROM segments ORDER BY id",
        "SELECT key, enabled, value, targeting FROM feature_flags ORDER BY key",
        "SELECT i.value, p.home, p.traits, p.created_at, p.last_seen_at FROM identities i \
         JOIN persons p ON p.id = i.person_id ORDER BY i.value",
        "SELECT e.id, e.received_on, e.name, e.user_id, e.message_id, e.properties, e.timestamp, \
         e.received_at, i.value FROM events e JOIN identities i USING (person_id) \
         ORDER BY e.received_at",
        "SELECT digest, event_id FROM message_ids_0 ORDER BY digest",
        "SELECT campaign_id, action, actor FROM campaign_history ORDER BY id",
    ];
    tables
        .iter()
        .flat_map(|query| sql::rows(connection, query))
        .collect()
}

fn tally(counts: [usize; 5]) -> Tally {
    let [in_file, created, present, conflicts, skipped] = counts;
    Tally {
        in_file,
        created,
        present,
        conflicts,
        skipped,
    }
}

#[test]
fn good_records_are_kept_whole_and_the_others_are_listed_with_reasons() {
    let (_database, mut connection, project) = fresh();
    let report = import(&mut connection, project);
    let expected = [
        (Section::Campaigns, tally([7, 3, 0, 0, 4])),
        (Section::Segments, tally([1, 1, 0, 0, 0])),
        (Section::FeatureFlags, tally([3, 2, 0, 0, 1])),
        (Section::Users, tally([8, 6, 0, 0, 2])),
        (Section::Events, tally([9, 4, 0, 0, 5])),
    ];
    for (section, expected) in expected {
        assert_eq!(report.tallies[&section], expected, "{section:?}");
    }
    let skipped: Vec<String> = report
        .skipped
        .iter()
        .map(|record| format!("{} {} {}", record.pointer, record.code, record.reason))
        .collect();
    assert_eq!(
        skipped,
        [
            "/campaigns/3 duplicate_id /campaigns/0 has the same id",
            "/campaigns/4 invalid_field id: it is missing or neither a text nor a number",
            "/campaigns/5 invalid_field status: it is none of active, paused and draft",
            "/campaigns/6 not_an_object the record is not an object",
            "/featureFlags/odd invalid_field enabled: it is neither true nor false",
            "/users/ invalid_field id: id must not be empty",
            "/users/list not_an_object the traits are not an object",
            "/events/4 duplicate_id /events/3 has the same id",
            "/events/5 invalid_field user_id: it is missing or neither a text nor a number",
            "/events/6 invalid_field event: event is required",
            "/events/7 invalid_field properties: they are not an object",
            "/events/8 invalid_field ts: it is missing or no time",
        ]
    );
    assert_eq!(report.odd_event_names, 2);
    assert_eq!(report.notes.len(), 2, "{:?}", report.notes);
}

#[test]
fn what_was_imported_is_what_the_file_says() {
    let (_database, mut connection, project) = fresh();
    let report = import(&mut connection, project);
    let campaigns = sql::texts(
        &mut connection,
        "SELECT body::text AS value FROM campaigns ORDER BY seq DESC",
    );
    // Newest first as in the file, the bytes of every field as they were.
    assert!(
        campaigns[0].contains(r#""ratio": 1.50, "emoji": "\ud83d\ude00""#),
        "{}",
        campaigns[0]
    );
    assert!(!campaigns[0].contains("createdAt") && campaigns[0].contains("mystery"));
    let events = sql::rows(
        &mut connection,
        "SELECT id, user_id, message_id, properties::text AS properties, \
         extract(epoch FROM timestamp)::float8 AS at, received_at FROM events \
         ORDER BY received_at",
    );
    assert_eq!(events[0]["id"], EVENT);
    assert_eq!(events[0]["properties"], r#"{"b": 1.0, "a": "\u0000"}"#);
    assert_eq!(events[0]["at"], json!(1762892140.471));
    assert_eq!(events[0]["message_id"], Value::Null);
    assert_eq!(events[1]["message_id"], "not-a-uuid");
    assert_eq!(events[1]["properties"], Value::Null);
    // A UUID in capitals is another text, so another event.
    assert_eq!(events[2]["user_id"], "5");
    assert_eq!(events[2]["message_id"], EVENT.to_uppercase());
    assert_eq!(events[3]["properties"], r#"{"lone": "\ufffd"}"#);
    // One microsecond apart, by the place in the file, so the order is the file's.
    let micros =
        "SELECT extract(epoch FROM max(received_at) - min(received_at)) * 1000000 FROM events";
    assert_eq!(sql::number(&mut connection, micros), 3);
    let ada = sql::rows(
        &mut connection,
        "SELECT traits, extract(epoch FROM created_at)::float8 AS first, \
         extract(epoch FROM last_seen_at)::float8 AS last FROM persons WHERE bucketing_value = 'ada'",
    );
    assert_eq!(
        ada[0]["traits"],
        json!({"plan": "pro", "visits": 100, "nothing": null, "last_seen": 1762948996681_i64})
    );
    let nul = "SELECT traits::text AS value FROM persons WHERE bucketing_value = 'nul'";
    assert_eq!(
        sql::texts(&mut connection, nul),
        ["{\"text\": \"a\u{fffd}b\"}"],
        "as an identify would be kept"
    );
    assert_eq!(ada[0]["first"], json!(1762892140.471));
    assert_eq!(ada[0]["last"], json!(1762948996.681));
    let ids = "SELECT count(*) FROM message_ids_0 WHERE digest = \
               encode(substr(sha256('not-a-uuid'), 1, 16), 'hex')::uuid";
    assert_eq!(sql::number(&mut connection, ids), 1);
    assert!(report.run.is_some());
}

#[test]
fn twice_gives_the_same_rows_and_a_dry_run_none() {
    let (_database, mut connection, project) = fresh();
    let empty = everything(&mut connection);
    let dry = import_as(&mut connection, project, Mode::DryRun);
    assert_eq!((dry.run, dry.created()), (None, 16));
    assert_eq!(everything(&mut connection), empty);
    let first = import(&mut connection, project);
    let rows = everything(&mut connection);
    let again = import_as(&mut connection, project, Mode::DryRun);
    assert_eq!((again.run, again.created()), (first.run, 0));
    let second = import(&mut connection, project);
    assert_eq!((second.created(), second.conflicts.len()), (0, 0));
    assert_eq!(second.tallies[&Section::Events].present, 4);
    assert_eq!(everything(&mut connection), rows);
}

#[test]
fn an_import_that_was_killed_goes_on_to_the_same_rows() {
    let (_database, mut connection, project) = fresh();
    // Large enough for several batches; it breaks off in the last but one.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data.json");
    let events: Vec<Value> = (0..2_500)
        .map(|n| json!({"id": format!("e{n}"), "user_id": format!("u{}", n % 700), "event": "open", "ts": 1762892140471_i64 + n}))
        .collect();
    std::fs::write(&path, json!({"events": events}).to_string()).unwrap();
    let file = transfer::read(&path).unwrap();
    let killed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let mut die = |done: usize, total: usize| {
            assert!(done < total - 1_000, "killed on purpose");
        };
        transfer::import(&mut connection, project, &file, Mode::Import, &mut die)
    }));
    assert!(killed.is_err());
    let (_other, mut connection_of_whole, project_of_whole) = fresh();
    drop(connection);
    let mut connection = beckon::store::connect(&_database.url).unwrap();
    let half = sql::number(&mut connection, "SELECT count(*) FROM events");
    assert!(0 < half && half < 2_500, "{half}");
    let resumed = eventually(
        "the lock of the killed import",
        std::time::Duration::from_secs(5),
        || {
            transfer::import(
                &mut connection,
                project,
                &file,
                Mode::Import,
                &mut |_, _| {},
            )
            .ok()
        },
    );
    assert!(resumed.verified());
    transfer::import(
        &mut connection_of_whole,
        project_of_whole,
        &file,
        Mode::Import,
        &mut |_, _| {},
    )
    .unwrap();
    let shape = "SELECT string_agg(concat_ws(',', id, message_id, user_id, timestamp, \
        received_at - (SELECT started_at FROM import_runs)), ';' ORDER BY received_at) AS value FROM events";
    assert_eq!(
        sql::texts(&mut connection, shape),
        sql::texts(&mut connection_of_whole, shape)
    );
}

#[test]
fn what_exists_is_not_overwritten_and_still_verifies() {
    let (_database, mut connection, project) = fresh();
    import(&mut connection, project);
    sql::run(
        &mut connection,
        "UPDATE persons SET traits = '{\"plan\": \"free\"}' WHERE bucketing_value = 'ada'; \
         UPDATE campaigns SET body = '{\"name\": \"Mine\"}', version = 2 WHERE id = 'c-newest'; \
         UPDATE feature_flags SET enabled = false WHERE key = 'beta'",
    );
    let rows = everything(&mut connection);
    let report = import(&mut connection, project);
    let conflicts: Vec<&str> = report.conflicts.iter().map(|c| c.id.as_str()).collect();
    assert_eq!(conflicts, ["c-newest", "beta", "ada"]);
    assert_eq!(everything(&mut connection), rows);
}

#[test]
fn a_row_that_does_not_hold_what_the_file_says_fails_the_verification() {
    let (_database, mut connection, project) = fresh();
    // The database loses a word of each event's properties on the way.
    sql::run(
        &mut connection,
        "CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS \
           $$ BEGIN NEW.properties = '{}'; RETURN NEW; END $$; \
         CREATE TRIGGER lose BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION lose()",
    );
    let report = import_as(&mut connection, project, Mode::Import);
    assert!(!report.verified());
    let bad: Vec<Section> = report
        .verification
        .iter()
        .filter(|table| !table.is_good())
        .map(|table| table.section)
        .collect();
    assert_eq!(bad, [Section::Events]);
    let verified = "SELECT count(*) FROM import_runs WHERE verified_at IS NOT NULL";
    assert_eq!(sql::number(&mut connection, verified), 0);
}

#[test]
fn two_projects_import_the_same_file_without_touching_each_other() {
    let (_database, mut connection, project) = fresh();
    let other = ProjectId(sql::project(&mut connection, "other"));
    import(&mut connection, project);
    let report = import(&mut connection, other);
    assert_eq!(report.tallies[&Section::Events].created, 4);
    // Row ids are shared, so the second project's have others and keep the original beside.
    let kept = format!(
        "SELECT count(*) FROM events WHERE message_id = '{EVENT}' AND project_id = {}",
        other.0
    );
    assert_eq!(sql::number(&mut connection, &kept), 1);
    import(&mut connection, other);
    assert_eq!(
        sql::number(&mut connection, "SELECT count(*) FROM events"),
        8
    );
    let refused = transfer::rollback(&mut connection, other, 1, false);
    assert!(refused.is_err(), "another project's run is no run");
}

#[test]
fn an_event_that_a_client_sent_already_is_not_stored_twice_nor_the_other_way() {
    let app = TestApp::start();
    let mut connection = app.sql();
    let project = ProjectId(sql::default_project(&mut connection));
    let client = app.client();
    let sent = |id: &str| {
        let body = json!({"user_id": "ada", "event": "open", "event_id": id});
        client.post("/v1/track", &body).expect(200)
    };
    sent("not-a-uuid");
    let report = import(&mut connection, project);
    let skipped = report
        .skipped
        .iter()
        .find(|record| record.code == "already_received")
        .unwrap();
    assert_eq!(skipped.pointer, "/events/1");
    let answer = sent(EVENT);
    assert_eq!(
        (&answer["duplicate"], &answer["event"]["id"]),
        (&json!(true), &json!(EVENT))
    );
    assert_eq!(
        sql::number(&mut connection, "SELECT count(*) FROM events"),
        4
    );
}

/// With a day's partition out of reach, an import that looked on all days would wait for it.
#[test]
fn an_import_and_its_rollback_look_only_on_the_days_of_imports() {
    let (database, mut connection, project) = fresh();
    let today = partitions::database_now(&mut connection).unwrap();
    let other = today.date_naive() - chrono::Days::new(20);
    partitions::ensure_day(&mut connection, other).unwrap();
    let mut holder = beckon::store::connect(&database.url).unwrap();
    let table = partitions::table_name(other);
    let lock = format!("BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE");
    sql::run(&mut holder, &lock);
    import(&mut connection, project);
    let again = import(&mut connection, project);
    assert_eq!(again.tallies[&Section::Events].present, 4);
    // Whether later events belong to somebody is asked of all days.
    sql::run(&mut holder, "ROLLBACK");
    assert_eq!(roll_back(&mut connection, project, false).events, 4);
}

/// What a server makes is a UUIDv7 and may be of any day, so such an id is looked for on all days.
#[test]
fn an_event_of_another_day_under_an_id_of_a_server_is_found() {
    let (_database, mut connection, project) = fresh();
    let id = uuid::Uuid::now_v7();
    let today = partitions::database_now(&mut connection).unwrap();
    let other = today.date_naive() - chrono::Days::new(20);
    partitions::ensure_day(&mut connection, other).unwrap();
    let event = format!(
        "INSERT INTO events (received_on, id, project_id, person_id, kind, name, user_id, \
         timestamp, received_at) VALUES ('{other}', '{id}', {}, 1, 0, 'open', 'ada', \
         'epoch', '{other}')",
        project.0
    );
    sql::run(&mut connection, &event);
    let text = format!(
        "{{\"events\": [{{\"id\": \"{id}\", \"user_id\": \"ada\", \"event\": \"open\", \"ts\": 0}}]}}"
    );
    let report = import_text(&mut connection, project, &text);
    assert_eq!(report.tallies[&Section::Events].present, 1);
}

#[test]
fn values_of_flags_that_cannot_be_read_again_are_refused_and_deep_ones_are_read() {
    let (_database, mut connection, project) = fresh();
    let deep = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    let flags = format!(
        "{{\"featureFlags\": {{\"deep\": {{\"value\": {}}}, \"deeper\": {{\"value\": {}}}, \
          \"huge\": {{\"value\": {{\"n\": 1e400}}}}, \"none\": {{}}}}}}",
        deep(256),
        deep(257)
    );
    let report = import_text(&mut connection, project, &flags);
    let skipped: Vec<(&str, &str)> = report
        .skipped
        .iter()
        .map(|record| (record.pointer.as_str(), record.code))
        .collect();
    assert_eq!(
        skipped,
        [
            ("/featureFlags/deeper", "invalid_field"),
            ("/featureFlags/huge", "unreadable"),
        ]
    );
    let live = beckon::store::live::flag_rows(&mut connection, project.0).unwrap();
    let listed = beckon::store::flags::list(&mut connection, project, 10).unwrap();
    assert_eq!((live.len(), listed.len()), (2, 2));
    let value = listed
        .iter()
        .find(|flag| flag.key == "deep")
        .unwrap()
        .value
        .clone();
    assert!(value.is_some_and(|value| value.is_array()));
    assert!(
        listed
            .iter()
            .any(|flag| flag.key == "none" && flag.value.is_none())
    );
}

#[test]
fn a_file_that_is_something_else_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.json");
    let (_database, mut connection, project) = fresh();
    for text in [
        "",
        "[]",
        "{}",
        "{\"a\": 1}",
        "{\"events\": {}}",
        "{\"users\": []}",
        "{\"events\": [1",
    ] {
        std::fs::write(&path, text).unwrap();
        let file = transfer::read(&path).unwrap();
        let outcome = transfer::import(
            &mut connection,
            project,
            &file,
            Mode::Import,
            &mut |_, _| {},
        );
        assert!(
            matches!(outcome, Err(transfer::TransferError::NotTheSeeds { .. })),
            "{text}"
        );
    }
    assert!(transfer::read(&folder.path().join("absent.json")).is_err());
    assert_eq!(
        sql::number(&mut connection, "SELECT count(*) FROM import_runs"),
        0
    );
}
