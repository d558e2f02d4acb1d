//! Import beside servers and other imports, and of what the database or the project cannot keep.

use std::time::Duration;

use beckon::transfer::{self, Mode, Report, Section, TransferError};
use serde_json::{Value, json};

use super::import::{fresh, import_text, roll_back};
use super::support::{eventually, sql};

fn conflicts(report: &Report) -> Vec<&str> {
    report.conflicts.iter().map(|c| c.id.as_str()).collect()
}

fn skipped(report: &Report) -> Vec<(&str, &str)> {
    report
        .skipped
        .iter()
        .map(|record| (record.pointer.as_str(), record.code))
        .collect()
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
fn a_later_export_differs_in_what_was_saved_since_alone() {
    let (_database, mut connection, project) = fresh();
    let export = |updated: u64, more: &str| {
        format!(
            r#"{{"campaigns": [
                {{"id": "saved", "name": "S", "createdAt": 1000, "updatedAt": {updated}}},
                {{"id": "dated", "name": "D", "createdAt": 1000, "updatedAt": 2000}},
                {{"id": "undated", "name": "U"}}],
              "segments": [
                {{"id": "saved-s", "name": "S", "rules": [], "updatedAt": {updated}}},
                {{"id": "undated-s", "name": "U", "rules": []}}]{more}}}"#
        )
    };
    import_text(&mut connection, project, &export(2_000, ""));
    let again = import_text(&mut connection, project, &export(2_000, r#", "x": 1"#));
    assert_eq!(conflicts(&again), [""; 0]);
    let later = import_text(&mut connection, project, &export(3_000, ""));
    assert_eq!(conflicts(&later), ["saved", "saved-s"]);
    assert_eq!(later.tallies[&Section::Campaigns].present, 2);
    assert_eq!(later.tallies[&Section::Segments].present, 1);
}

#[test]
fn a_skipped_user_and_their_events_come_with_the_corrected_file() {
    let (_database, mut connection, project) = fresh();
    let deep = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    let text = |traits: &str| {
        format!(
            r#"{{"users": {{"odd/": {{"n": {traits}}}, "deep": {{"n": {}}}}}, "events": [
                {{"id": "1", "user_id": "odd/", "event": "open", "ts": 0}},
                {{"id": "2", "user_id": "deep", "event": "open", "ts": 0}}]}}"#,
            deep(255)
        )
    };
    for odd in ["1e400", &deep(256), "1e-20000"] {
        let report = import_text(&mut connection, project, &text(odd));
        let (user, event) = (skipped(&report)[0], skipped(&report)[1]);
        assert_eq!(user.0, "/users/odd~1");
        assert_eq!(event, ("/events/0", "user_skipped"));
        assert_eq!(skipped(&report).len(), 2);
    }
    let report = import_text(&mut connection, project, &text("1"));
    assert_eq!(conflicts(&report), [""; 0]);
    assert_eq!(report.tallies[&Section::Users].created, 1);
    assert_eq!(report.tallies[&Section::Events].created, 1);
}

/// Postgres refuses a statement as a whole for one value.
#[test]
fn what_the_database_refuses_costs_only_itself() {
    let (_database, mut connection, project) = fresh();
    let mut users: Vec<String> = (0..1_500)
        .map(|n| format!("\"u{n}\": {{\"n\": 1}}"))
        .collect();
    users[7] = "\"tiny\": {\"n\": 1e-20000}".to_owned();
    users[1_400] = "\"zero\": {\"n\": 0e99999999999}".to_owned();
    // Its search vector would be too large.
    let words: Vec<String> = (0..200_000).map(|n| format!("word{n}")).collect();
    let text = format!(
        r#"{{"users": {{{}}}, "campaigns": [
            {{"id": "long", "name": "{}"}}, {{"id": "short", "name": "Short"}}], "events": [
            {{"id": "1", "user_id": "tiny", "event": "open", "ts": 0}},
            {{"id": "2", "user_id": "u8", "event": "open", "ts": 0}}]}}"#,
        users.join(","),
        words.join(" ")
    );
    let file = transfer::built_in("data.json", text.as_bytes()).unwrap();
    let quiet = &mut |_, _| {};
    let dry = transfer::import(&mut connection, project, &file, Mode::DryRun, quiet).unwrap();
    assert_eq!(dry.tallies[&Section::Users].created, 1_498);
    for created in [1, 0] {
        let report = import_text(&mut connection, project, &text);
        assert_eq!(
            skipped(&report),
            [
                ("/campaigns/0", "refused"),
                ("/users/tiny", "refused"),
                ("/users/zero", "refused"),
                ("/events/0", "user_skipped"),
            ]
        );
        assert!(
            report.skipped[1]
                .reason
                .contains("overflows numeric format")
        );
        assert_eq!(report.tallies[&Section::Users].created, created * 1_498);
        assert_eq!(report.tallies[&Section::Campaigns].created, created);
        assert_eq!(report.tallies[&Section::Events].created, created);
    }
}

#[test]
fn what_others_change_during_the_import_is_not_taken_for_a_fault() {
    let (database, mut connection, project) = fresh();
    let text = json!({
        "campaigns": [{"id": "c", "name": "C"}], "segments": [{"id": "s", "name": "S", "rules": []}],
        "featureFlags": {"f": {"enabled": true}, "kept": {"enabled": true}},
        "users": {"ada": {"n": 1}, "linus": {}},
    });
    let file = transfer::built_in("data.json", text.to_string().as_bytes()).unwrap();
    let mut other = database.connect();
    let mut change = |done: usize, total: usize| {
        if done == total {
            sql::run(
                &mut other,
                "UPDATE campaigns SET body = '{}', version = 2; UPDATE segments SET body = '{}'; \
                 UPDATE feature_flags SET enabled = false WHERE key = 'f'; \
                 UPDATE persons SET traits = '{\"n\": 2}' WHERE bucketing_value = 'ada'",
            );
        }
    };
    let mode = Mode::Import;
    let report = transfer::import(&mut connection, project, &file, mode, &mut change).unwrap();
    assert!(report.verified(), "{:?}", report.verification);
    let notes: Vec<&String> = report
        .notes
        .iter()
        .filter(|n| n.contains("not verified"))
        .collect();
    assert_eq!(notes.len(), 4, "{notes:?}");
}

/// What the database did not keep is no change of others.
#[test]
fn traits_that_the_database_loses_fail_the_verification() {
    let (_database, mut connection, project) = fresh();
    sql::run(
        &mut connection,
        "CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS \
           $$ BEGIN NEW.traits = '{}'; RETURN NEW; END $$; \
         CREATE TRIGGER lose BEFORE INSERT ON persons FOR EACH ROW EXECUTE FUNCTION lose()",
    );
    let file = transfer::built_in("data.json", br#"{"users": {"ada": {"n": 1}}}"#).unwrap();
    let mode = Mode::Import;
    let report = transfer::import(&mut connection, project, &file, mode, &mut |_, _| {}).unwrap();
    assert!(!report.verified());
}

/// Every change locks the project's revision first.
#[test]
fn an_import_and_an_admin_do_not_wait_for_each_other_in_a_circle() {
    let (database, mut connection, project) = fresh();
    let mut admin = database.connect();
    sql::run(
        &mut admin,
        "BEGIN; UPDATE project_revisions SET revision = revision + 1",
    );
    let importing = std::thread::spawn(move || {
        let text = r#"{"featureFlags": {"beta": {"enabled": true}}}"#;
        let report = import_text(&mut connection, project, text);
        conflicts(&report).join(",")
    });
    let mut looker = database.connect();
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                   AND wait_event_type = 'Lock'";
    eventually("the import to wait", Duration::from_secs(10), || {
        (sql::number(&mut looker, waiting) == 1).then_some(())
    });
    let flag = format!(
        "INSERT INTO feature_flags (project_id, key, enabled, created_at) \
         VALUES ({}, 'beta', false, now()); COMMIT",
        project.0
    );
    sql::run(&mut admin, &flag);
    assert_eq!(importing.join().unwrap(), "beta");
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

/// The next rollback looks for what the one that died did not look for.
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

/// A server's transaction that is open may hold an event of somebody who is taken out.
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
