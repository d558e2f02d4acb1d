//! The ledger of ingest: what it tells, and that a fault in it is found.

use serde_json::{Value, json};

use crate::support::ledger::ledger_faults;
use crate::support::sql::{self, KeyRow};
use crate::support::{TestApp, assert_ledger};

const OTHER_ADMIN: &str = "admin_key_of_another_project_0123456789";

#[test]
fn days_are_summed_over_slots_for_ones_own_project() {
    let app = TestApp::prepared(&[], |sql| {
        let other = sql::project(sql, "other");
        KeyRow::good(other, "admin", OTHER_ADMIN).insert(sql);
        sql::run(
            sql,
            &format!(
                "INSERT INTO ingest_ledger
                     (project_id, day, slot, received, stored, duplicate, rejected)
                 VALUES (1, current_date, 0, 10, 7, 2, 1), (1, current_date, 1, 5, 5, 0, 0),
                        (1, current_date - 1, 0, 4, 2, 1, 0), (1, current_date - 40, 0, 9, 9, 0, 0),
                        ({other}, current_date, 0, 100, 100, 0, 0)"
            ),
        );
    });
    let sums = app.admin().get("/v1/admin/ledger").expect(200);
    let days = sums["days"].as_array().unwrap();
    assert_eq!(days.len(), 2, "{sums}");
    assert_eq!(days[0]["day"], sums["to"]);
    let figures = |day: &serde_json::Value| {
        ["received", "stored", "duplicate", "rejected", "difference"]
            .map(|name| day[name].as_i64().unwrap())
    };
    assert_eq!(figures(&days[0]), [15, 12, 2, 1, 0]);
    assert_eq!(figures(&days[1]), [4, 2, 1, 0, 1]);
    let yesterday = days[1]["day"].as_str().unwrap();
    let one = format!("/v1/admin/ledger?from={yesterday}&to={yesterday}T23:00:00Z");
    let one = app.admin().get(&one).expect(200);
    assert_eq!(one["days"], json!([days[1]]), "{one}");
    let old = app.admin().get("/v1/admin/ledger?from=1980-01-01");
    assert_eq!(old.expect(200)["days"].as_array().unwrap().len(), 3);
    for odd in ["from=yesterday", "to=99999-01-01", "from=0"] {
        let refused = app.admin().get(&format!("/v1/admin/ledger?{odd}"));
        assert_eq!(refused.status, 400, "{odd}");
    }
    let theirs = app
        .with_key(OTHER_ADMIN)
        .get("/v1/admin/ledger")
        .expect(200);
    assert_eq!(theirs["days"][0]["received"], 100);
}

/// One day of one project, as three tables tell it.
fn set(app: &TestApp, figures: [i64; 4], events: i64, refusals: i64) {
    let [received, stored, duplicate, rejected] = figures;
    sql::run(
        &mut app.sql(),
        &format!(
            "TRUNCATE ingest_ledger, events, rejected_events;
             INSERT INTO ingest_ledger VALUES
                 (1, current_date, 0, {received}, {stored}, {duplicate}, {rejected});
             INSERT INTO events (received_on, id, project_id, person_id, kind, name, timestamp,
                                 received_at)
             SELECT current_date, gen_random_uuid(), 1, 1, 0, 'e', now(), now()
             FROM generate_series(1, {events});
             INSERT INTO rejected_events (project_id, received_at, code, message, payload)
             SELECT 1, now(), 'too_deep', '', '{{}}' FROM generate_series(1, {refusals})"
        ),
    );
}

#[test]
fn the_check_of_the_tests_finds_each_fault() {
    let app = TestApp::start();
    let mut connection = app.sql();
    set(&app, [6, 3, 1, 2], 3, 2);
    assert_ledger(&app);
    for (figures, events, refusals) in [
        ([7, 3, 1, 2], 3, 2),
        ([6, 3, 1, 2], 2, 2),
        ([6, 3, 1, 2], 4, 2),
        ([6, 3, 1, 2], 3, 1),
        ([0, 0, 0, 0], 1, 0),
        ([0, 0, 0, 0], 0, 1),
    ] {
        set(&app, figures, events, refusals);
        let faults = ledger_faults(&mut connection);
        assert_eq!(faults.len(), 1, "{figures:?} {events} {refusals}");
    }
}

/// The verdicts of the doctor on sum, events and rejected events, and its exit code.
fn doctor(app: &TestApp) -> ([String; 3], Option<i32>, Value) {
    let examined = app
        .launch()
        .command(&["doctor", "--json"])
        .output()
        .unwrap();
    let checks: Value = serde_json::from_slice(&examined.stdout).unwrap();
    let verdict = |name: &str| {
        let mut all = checks.as_array().unwrap().iter();
        let check = all.find(|check| check["name"] == name).unwrap();
        check["verdict"].as_str().unwrap().to_owned()
    };
    let verdicts = ["ledger", "stored events", "rejected events"].map(verdict);
    (verdicts, examined.status.code(), checks)
}

#[test]
fn the_doctor_finds_each_fault_and_tells_where() {
    let app = TestApp::start();
    set(&app, [6, 3, 1, 2], 3, 2);
    let (verdicts, exit, checks) = doctor(&app);
    assert_eq!(
        (verdicts, exit),
        (["ok", "ok", "ok"].map(str::to_owned), Some(0)),
        "{checks}"
    );
    for (figures, events, refusals, expected, said) in [
        (
            [7, 3, 1, 2],
            3,
            2,
            ["fail", "ok", "ok"],
            "of 7 event(s) received 6 were settled",
        ),
        (
            [6, 3, 1, 2],
            2,
            2,
            ["ok", "fail", "ok"],
            "the ledger says 3, the table holds 2",
        ),
        (
            [6, 3, 1, 2],
            4,
            2,
            ["ok", "fail", "ok"],
            "the ledger says 3, the table holds 4",
        ),
        (
            [6, 3, 1, 2],
            3,
            1,
            ["ok", "ok", "fail"],
            "the ledger says 2, the table holds 1",
        ),
        (
            [0, 0, 0, 0],
            1,
            1,
            ["ok", "fail", "fail"],
            "project default on 2",
        ),
    ] {
        set(&app, figures, events, refusals);
        let (verdicts, exit, checks) = doctor(&app);
        assert_eq!(verdicts, expected.map(str::to_owned), "{checks}");
        assert_eq!(exit, Some(1));
        assert!(checks.to_string().contains(said), "{checks}");
    }
}

#[test]
fn the_doctor_leaves_out_imports_and_what_retention_has_taken() {
    let app = TestApp::start();
    let track = json!({"user_id": "u", "event": "e"});
    app.client().post("/v1/track", &track).expect(200);
    let file = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/fixtures/import/data.json"
    );
    let imported = app
        .launch()
        .command(&["import", file, "--json"])
        .output()
        .unwrap();
    assert!(imported.status.success(), "{imported:?}");
    assert_ledger(&app);
    let fine = (["ok", "ok", "ok"].map(str::to_owned), Some(0));
    let (verdicts, exit, checks) = doctor(&app);
    assert_eq!((verdicts, exit), fine, "{checks}");
    // The ledger began before yesterday, when there were events that are gone by now.
    sql::run(
        &mut app.sql(),
        "UPDATE __diesel_schema_migrations SET run_on = run_on - interval '9 days';
         UPDATE projects SET retention_days = 1;
         INSERT INTO ingest_ledger SELECT 1, current_date - ago, 0, 5, 4, 0, 1
         FROM generate_series(2, 6) AS ago",
    );
    let (verdicts, exit, checks) = doctor(&app);
    assert_eq!((verdicts, exit), fine, "{checks}");
    // A day that is kept is compared, also where it has no partition.
    let kept = "UPDATE projects SET retention_days = 4";
    sql::run(&mut app.sql(), kept);
    let (verdicts, _, checks) = doctor(&app);
    assert_eq!(verdicts, ["ok", "fail", "fail"], "{checks}");
    let said = checks.to_string();
    assert_eq!(said.matches("2 more day(s) differ").count(), 2, "{checks}");
}

#[test]
fn the_doctor_finds_that_a_whole_day_is_gone() {
    let app = TestApp::start();
    let mut connection = app.sql();
    // The server has made yesterday's partition.
    sql::run(
        &mut connection,
        "UPDATE __diesel_schema_migrations SET run_on = run_on - interval '9 days';
         INSERT INTO ingest_ledger VALUES (1, current_date - 1, 0, 3, 3, 0, 0);
         INSERT INTO events (received_on, id, project_id, person_id, kind, name, timestamp,
                             received_at)
         SELECT current_date - 1, gen_random_uuid(), 1, 1, 0, 'e', now(), now() - interval '1 day'
         FROM generate_series(1, 3)",
    );
    let days = "SELECT (current_date - 1)::text AS value UNION ALL SELECT current_date::text";
    let days = sql::texts(&mut connection, days);
    let (day, next) = (&days[0], &days[1]);
    let name = format!("events_p{}", day.replace('-', ""));
    for (change, expected, exit) in [
        ("SELECT 1".to_owned(), "ok", 0),
        (
            format!("ALTER TABLE events DETACH PARTITION {name}"),
            "fail",
            1,
        ),
        (
            format!(
                "ALTER TABLE events ATTACH PARTITION {name} FOR VALUES FROM ('{day}') TO ('{next}')"
            ),
            "ok",
            0,
        ),
        (format!("DROP TABLE {name}"), "fail", 1),
    ] {
        sql::run(&mut connection, &change);
        let (verdicts, code, checks) = doctor(&app);
        assert_eq!(verdicts, ["ok", expected, "ok"], "{change}: {checks}");
        assert_eq!(code, Some(exit), "{change}: {checks}");
        let said = format!("project default on {day}: the ledger says 3, the table holds 0");
        let is_said = checks.to_string().contains(&said);
        assert_eq!(is_said, expected == "fail", "{change}: {checks}");
    }
}

#[test]
fn the_day_of_the_migration_begins_with_what_it_holds() {
    use beckon::store::migrate::{migrate, revert_newest};
    let app = TestApp::start();
    let batch = json!({"batch": [
        {"type": "track", "userId": "u", "event": "e"},
        {"type": "track", "userId": "u", "event": "e"},
        {"type": "track", "userId": "u"},
    ]});
    app.client().post("/v1/batch", &batch).expect(200);
    let file = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/fixtures/import/data.json"
    );
    let imported = app.launch().command(&["import", file]).output().unwrap();
    assert!(imported.status.success(), "{imported:?}");
    let mut connection = app.sql();
    while revert_newest(&mut connection).unwrap().unwrap() != "20261121000004" {}
    migrate(&mut connection).unwrap();
    let seeded = "SELECT slot, received, stored, duplicate, rejected FROM ingest_ledger";
    let row = json!({"slot": -1, "received": 3, "stored": 2, "duplicate": 0, "rejected": 1});
    assert_eq!(sql::rows(&mut connection, seeded), [row]);
    app.client().post("/v1/batch", &batch).expect(200);
    assert_ledger(&app);
}

#[test]
fn the_command_shows_the_days_as_a_table_and_as_json() {
    let app = TestApp::start();
    let track = json!({"user_id": "u", "event": "e", "event_id": "once"});
    for _ in 0..2 {
        app.client().post("/v1/track", &track).expect(200);
    }
    let json = app
        .launch()
        .command(&["ledger", "--json"])
        .output()
        .unwrap();
    let days: Value = serde_json::from_slice(&json.stdout).unwrap();
    let day = days[0].as_object().unwrap();
    assert_eq!(
        (&day["received"], &day["duplicate"]),
        (&json!(2), &json!(1))
    );
    let table = app.launch().command(&["ledger"]).output().unwrap();
    let table = String::from_utf8(table.stdout).unwrap();
    let cells: Vec<&str> = table.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(cells[1..], ["2", "1", "1", "0", "0"], "{table}");
}
