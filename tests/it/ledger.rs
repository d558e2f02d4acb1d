//! The ledger of ingest: what it tells, and that a fault in it is found.

use serde_json::json;

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
