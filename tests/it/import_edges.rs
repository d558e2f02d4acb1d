//! Import beside servers and other imports, and of what the database or the project cannot keep.

use std::time::Duration;

use beckon::transfer::{self, Mode, Report, TransferError};
use serde_json::{Value, json};

use super::import::{fresh, import_text, roll_back};
use super::support::{eventually, sql};

fn conflicts(report: &Report) -> Vec<&str> {
    report.conflicts.iter().map(|c| c.id.as_str()).collect()
}

#[test]
fn numbers_that_are_equal_and_written_otherwise_are_a_conflict() {
    let (_database, mut connection, project) = fresh();
    import_text(
        &mut connection,
        project,
        r#"{"users": {"ada": {"n": 100.0}}}"#,
    );
    let report = import_text(
        &mut connection,
        project,
        r#"{"users": {"ada": {"n": 100}}}"#,
    );
    assert_eq!(conflicts(&report), ["ada"]);
}

#[test]
fn a_run_whose_events_are_past_their_retention_is_not_repeated() {
    let (_database, mut connection, project) = fresh();
    let text = r#"{"events": [{"id": "1", "user_id": "ada", "event": "open", "ts": 0}]}"#;
    import_text(&mut connection, project, text);
    // As after 91 days and a run of retention.
    sql::run(
        &mut connection,
        "UPDATE import_runs SET started_at = now() - interval '91 days'; DELETE FROM events",
    );
    let file = transfer::built_in("data.json", text.as_bytes()).unwrap();
    for mode in [Mode::DryRun, Mode::Import] {
        let outcome = transfer::import(&mut connection, project, &file, mode, &mut |_, _| {});
        assert!(matches!(outcome, Err(TransferError::PastRetention { .. })));
    }
    assert_eq!(
        sql::number(&mut connection, "SELECT count(*) FROM events"),
        0
    );
    roll_back(&mut connection, project, false);
    assert_eq!(import_text(&mut connection, project, text).created(), 2);
}

#[test]
fn a_rollback_that_died_between_people_and_their_events_is_finished() {
    let (_database, mut connection, project) = fresh();
    import_text(&mut connection, project, r#"{"users": {"ada": {"n": 1}}}"#);
    let ids = sql::rows(&mut connection, "SELECT id FROM persons");
    sql::run(
        &mut connection,
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS \
           $$ BEGIN RAISE EXCEPTION 'not now'; END $$; \
         CREATE TRIGGER no BEFORE DELETE ON import_rows FOR EACH ROW EXECUTE FUNCTION no()",
    );
    let run = sql::number(&mut connection, "SELECT max(id) FROM import_runs");
    transfer::rollback(&mut connection, project, run, false).unwrap_err();
    assert_eq!(
        sql::number(&mut connection, "SELECT count(*) FROM persons"),
        0
    );
    let Value::Number(id) = &ids[0]["id"] else {
        panic!("{ids:?}");
    };
    let stray = format!(
        "DROP TRIGGER no ON import_rows; \
         INSERT INTO events (received_on, id, project_id, person_id, kind, name, user_id, \
           timestamp, received_at) VALUES ((now() AT TIME ZONE 'UTC')::date, \
           '2a07bfc9-dd99-4728-904e-2afa244cbd86', {}, {id}, 0, 'open', 'ada', now(), now())",
        project.0
    );
    sql::run(&mut connection, &stray);
    roll_back(&mut connection, project, false);
    let owner = "SELECT i.value FROM events e JOIN persons p ON p.id = e.person_id \
                 JOIN identities i ON i.person_id = p.id";
    assert_eq!(sql::rows(&mut connection, owner), [json!({"value": "ada"})]);
    assert_eq!(
        sql::number(&mut connection, "SELECT count(*) FROM import_rows"),
        0
    );
}

#[test]
fn a_rollback_waits_for_transactions_that_are_older_than_it() {
    let (database, mut connection, project) = fresh();
    import_text(&mut connection, project, r#"{"users": {"ada": {"n": 1}}}"#);
    let mut writer = database.connect();
    let stray = format!(
        "BEGIN; INSERT INTO events (received_on, id, project_id, person_id, kind, name, user_id, \
           timestamp, received_at) SELECT (now() AT TIME ZONE 'UTC')::date, \
           '2a07bfc9-dd99-4728-904e-2afa244cbd86', {}, id, 0, 'open', 'ada', now(), now() \
         FROM persons",
        project.0
    );
    sql::run(&mut writer, &stray);
    let rolling = std::thread::spawn(move || {
        roll_back(&mut connection, project, false);
        connection
    });
    let mut looker = database.connect();
    eventually("the person to go", Duration::from_secs(10), || {
        (sql::number(&mut looker, "SELECT count(*) FROM persons") == 0).then_some(())
    });
    std::thread::park_timeout(Duration::from_millis(300));
    sql::run(&mut writer, "COMMIT");
    let mut connection = rolling.join().unwrap();
    let orphans = "SELECT count(*) FROM events e \
                   WHERE NOT EXISTS (SELECT FROM persons p WHERE p.id = e.person_id)";
    assert_eq!(sql::number(&mut connection, orphans), 0);
    assert_eq!(
        sql::number(&mut connection, "SELECT count(*) FROM events"),
        1
    );
}
