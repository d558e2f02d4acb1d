//! One message id is one event, whatever comes between two calls with it: a restart, midnight, the
//! rotation of the remembered ids, another node, an answer that was lost.

use std::collections::BTreeSet;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use beckon::store::partitions;
use chrono::{Days, NaiveDate, TimeDelta};
use diesel::PgConnection;
use serde_json::{Value, json};

use crate::support::app::{Launch, Server, run_to_end};
use crate::support::journal::Load;
use crate::support::lossy::LossyProxy;
use crate::support::metrics::Scrape;
use crate::support::postgres::postgres_server_with_clock;
use crate::support::{
    ADMIN_KEY, CLIENT_KEY, Client, TestApp, assert_ledger, eventually, is_soak, now, patience, sql,
};

fn identify(plan: &str, id: &str) -> Value {
    json!({"user_id": "u", "traits": {"plan": plan}, "event_id": id})
}

/// Sends a track and gives the stored event's id and whether it was stored before.
fn track(client: &Client, id: &str) -> (String, bool) {
    let body = json!({"user_id": "u", "event": "e", "event_id": id});
    let answer = client.post("/v1/track", &body).expect(200);
    let event = answer["event"]["id"].as_str().unwrap().to_owned();
    (event, answer["duplicate"] == true)
}

#[test]
fn a_restart_forgets_no_id_and_no_effect() {
    let mut app = TestApp::start();
    let (event, _) = track(&app.client(), "before");
    app.admin()
        .post("/v1/identify", &identify("free", "i-1"))
        .expect(200);
    app.admin()
        .post("/v1/identify", &identify("pro", "i-2"))
        .expect(200);
    app.kill9();
    app.restart();
    assert_eq!(track(&app.client(), "before"), (event, true));
    let late = app
        .admin()
        .post("/v1/identify", &identify("free", "i-1"))
        .expect(200);
    assert_eq!(late["duplicate"], true, "{late}");
    assert_eq!(late["user"], json!({"plan": "pro"}), "no second effect");
    assert_eq!(
        sql::number(&mut app.sql(), "SELECT count(*) FROM events"),
        3
    );
    assert_ledger(&app);
}

#[test]
fn two_nodes_know_each_others_ids() {
    let app = TestApp::start();
    let second = app.another_node();
    let (here, there) = (app.client(), Client::new(second.base()).key(CLIENT_KEY));
    let (event, _) = track(&here, "here");
    assert_eq!(track(&there, "here"), (event, true));
    for round in 0..20 {
        let id = format!("race-{round}");
        let start = Barrier::new(8);
        let answers: Vec<(String, bool)> = thread::scope(|scope| {
            let callers: Vec<_> = (0..8)
                .map(|number| {
                    let client = if number % 2 == 0 { &here } else { &there };
                    let (id, start) = (&id, &start);
                    scope.spawn(move || {
                        start.wait();
                        track(client, id)
                    })
                })
                .collect();
            callers
                .into_iter()
                .map(|caller| caller.join().unwrap())
                .collect()
        });
        let fresh = answers.iter().filter(|(_, duplicate)| !duplicate).count();
        assert_eq!(fresh, 1, "{answers:?}");
        let events: BTreeSet<&String> = answers.iter().map(|(event, _)| event).collect();
        assert_eq!(events.len(), 1, "{answers:?}");
    }
    assert_eq!(
        sql::number(&mut app.sql(), "SELECT count(*) FROM events"),
        21
    );
    assert_ledger(&app);
}

#[test]
fn an_answer_that_was_lost_is_given_again() {
    let app = TestApp::start();
    let proxy = LossyProxy::before(app.address(), 5);
    let load = Load::mixed(&proxy.base(), 8, "lossy");
    load.wait_for(
        if is_soak() { 20_000 } else { 500 },
        Duration::from_secs(300),
    );
    let journal = load.end();
    println!(
        "{} answers dropped, {} duplicates",
        proxy.dropped(),
        journal.duplicates
    );
    journal.check_with_metrics(&mut app.sql(), "lossy", app.base());
    assert!(proxy.dropped() > 50, "{}", proxy.dropped());
    // All of them were stored before the answer was lost.
    assert_eq!(journal.duplicates, journal.after_silence);
    assert_eq!(journal.refused.len(), 0, "{:?}", journal.refused);
}

fn days(sql: &mut PgConnection) -> Vec<NaiveDate> {
    let query = "SELECT DISTINCT received_on::text AS value FROM events ORDER BY 1";
    let days = sql::texts(sql, query);
    days.iter().map(|day| day.parse().unwrap()).collect()
}

/// How long a step may take on a slow machine.
const SOON: Duration = Duration::from_secs(60);

fn has_partition(sql: &mut PgConnection, day: NaiveDate) -> bool {
    let partitions = partitions::list(sql).unwrap();
    partitions.iter().any(|partition| partition.day == day)
}

#[test]
fn an_id_is_remembered_over_midnight_and_forgotten_after_its_window() {
    let (postgres, clock) = postgres_server_with_clock();
    // Both clocks are those of one machine. The schedule is out of the way.
    let (deadline, millis) = patience();
    let mut launch = Launch::new(&postgres.url())
        .set("BECKON_RETENTION_SCHEDULE", "0 0 0 29 2 *")
        .set(deadline, millis);
    for (name, value) in clock.variables() {
        launch = launch.set(name, &value);
    }
    let tomorrow = now().date_naive().succ_opt().unwrap();
    let midnight = tomorrow.and_hms_opt(0, 0, 0).unwrap().and_utc();
    clock.shift(midnight - now() - TimeDelta::hours(3));
    let server = Server::start(&launch);
    server.wait_until_ready();
    let client = Client::new(server.base()).key(CLIENT_KEY);
    let mut sql = postgres.connect();

    // Calls, lost answers and repetitions on both sides of midnight, with no partition for the day
    // after it: the server looks after partitions once an hour, and has just done so.
    let looked = |times: f64| {
        eventually("partitions are looked after", SOON, || {
            let scrape = Scrape::of(&Client::new(server.base()).key(ADMIN_KEY));
            let runs = "beckon_job_runs_total{result=\"ok\",task=\"partitions\"}";
            (scrape.value(runs) >= times).then_some(())
        });
    };
    looked(1.0);
    clock.shift(midnight - now() - TimeDelta::seconds(8));
    looked(2.0);
    let ahead = tomorrow + Days::new(2);
    for day in [tomorrow, tomorrow + Days::new(1), ahead] {
        partitions::drop_day(&mut sql, day).unwrap();
    }
    let (event, _) = track(&client, "before midnight");
    let proxy = LossyProxy::before(server.address(), 4);
    let load = Load::mixed(&proxy.base(), 8, "midnight");
    eventually("the first call of the day", SOON, || {
        (days(&mut sql).last() == Some(&tomorrow)).then_some(())
    });
    load.wait_for(100, SOON);
    let journal = load.end();
    journal.check_with_metrics(&mut sql, "midnight", server.base());
    assert!(journal.refused.is_empty(), "{:?}", journal.refused);
    // It was made when it was needed, and no other.
    assert!(has_partition(&mut sql, tomorrow));
    assert!(
        !has_partition(&mut sql, ahead),
        "it was not the hourly look"
    );
    assert!(journal.duplicates > 0 && proxy.dropped() > 0);
    assert_eq!(track(&client, "before midnight"), (event.clone(), true));
    assert_eq!(days(&mut sql), [tomorrow.pred_opt().unwrap(), tomorrow]);

    // Once the window is over the ids are put aside; they are remembered for one window more.
    let retention = || {
        let command = launch.command(&["retention", "run", "--json"]);
        let (status, said) = run_to_end(command, Duration::from_secs(60));
        assert!(status.success(), "{said}");
        let report: Value = serde_json::from_str(said.trim()).unwrap();
        report["message_ids_rotated"] == true
    };
    for (day, rotated) in [(8, true), (12, false)] {
        clock.shift(TimeDelta::days(day));
        assert_eq!(retention(), rotated, "day {day}");
        assert_eq!(track(&client, "before midnight"), (event.clone(), true));
    }
    clock.shift(TimeDelta::days(16));
    assert!(retention());
    let (again, duplicate) = track(&client, "before midnight");
    assert!(!duplicate && again != event, "forgotten, as documented");
}
