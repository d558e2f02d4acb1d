//! Explanations are made one at a time; those that take long end, and keep no neighbour from his.

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use diesel::PgConnection;
use serde_json::{Value, json};

use crate::campaign_flow::{create, identify, on_buy};
use crate::decided_apart::costly;
use crate::support::sql::{self, KeyRow};
use crate::support::{ADMIN_KEY, TestApp, eventually, now, pause};

const PATH: &str = "/v1/admin/explain";
const OTHER_KEY: &str = "read_key_of_a_neighbour_0123456789";
const SOON: Duration = Duration::from_secs(20);

/// With connections for several explanations at a time.
fn start() -> TestApp {
    TestApp::start_with(&[("BECKON_POOL_SIZE", "16")])
}

/// Campaigns as of then are read from a table that can be locked.
fn as_of_then() -> Value {
    json!({"event": "buy", "at": now() - TimeDelta::minutes(1)})
}

fn lock(app: &TestApp) -> PgConnection {
    let mut locked = app.sql();
    sql::run(
        &mut locked,
        "BEGIN; LOCK TABLE campaign_history IN ACCESS EXCLUSIVE MODE",
    );
    locked
}

/// How many explanations are loading, which wait for that lock.
fn loading(connection: &mut PgConnection) -> i64 {
    let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted \
                 AND relation = 'campaign_history'::regclass";
    sql::number(connection, waits)
}

/// Asks and goes away once it is loading.
fn ask_and_leave(app: &TestApp, connection: &mut PgConnection) {
    let mut socket = TcpStream::connect(app.address()).unwrap();
    // What is not read makes the system end the connection at once, instead of only saying that
    // nothing more will be sent.
    write!(socket, "GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    assert_eq!(socket.peek(&mut [0]).unwrap(), 1);
    let body = as_of_then().to_string();
    write!(
        socket,
        "POST {PATH} HTTP/1.1\r\nhost: x\r\nx-api-key: {ADMIN_KEY}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    eventually("it is loading", SOON, || {
        (loading(connection) == 1).then_some(())
    });
}

#[test]
fn one_explanation_is_loaded_at_a_time_whether_or_not_its_caller_waits() {
    let app = start();
    let (mut locked, mut connection) = (lock(&app), app.sql());
    ask_and_leave(&app, &mut connection);
    let question = as_of_then();
    let ask = || app.admin().post(PATH, &question).status;
    std::thread::scope(|scope| {
        let others: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
        // The project has four places, one of which is still taken.
        eventually("one is refused", SOON, || {
            others.iter().any(|it| it.is_finished()).then_some(())
        });
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(1) {
            assert_eq!(loading(&mut connection), 1);
            pause(Duration::from_millis(20));
        }
        sql::run(&mut locked, "COMMIT");
        let mut statuses: Vec<u16> = others.into_iter().map(|it| it.join().unwrap()).collect();
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 200, 200, 429]);
    });
    // All places are free again.
    app.admin().post(PATH, &as_of_then()).expect(200);
}

#[test]
fn none_is_loaded_while_another_one_is_explained() {
    let app = start();
    // Some millions of steps each.
    let each: Vec<i32> = (0..1_000).collect();
    let inner = json!({"some": [each, {"==": [{"var": ""}, -1]}]});
    let costly = json!({"some": [{"var": "user.traits.a"}, inner]});
    // So many that explaining them takes a while, however this was built.
    let campaigns = if cfg!(debug_assertions) { 30 } else { 200 };
    for number in 0..campaigns {
        let name = format!("costly {number}");
        create(&app.admin(), on_buy(&name, json!({"targeting": costly})));
    }
    identify(&app.client(), "ada", json!({ "a": each }));
    let (mut locked, mut connection) = (lock(&app), app.sql());
    let question = json!({"user_id": "ada", "event": "buy"});
    std::thread::scope(|scope| {
        let first = scope.spawn(|| {
            app.admin().post(PATH, &question).expect(200);
            Instant::now()
        });
        pause(Duration::from_millis(100));
        let asked = Instant::now();
        let second = scope.spawn(|| app.admin().post(PATH, &as_of_then()).status);
        eventually("the second is loading", SOON, || {
            (loading(&mut connection) == 1).then_some(())
        });
        let waited = asked.elapsed();
        sql::run(&mut locked, "COMMIT");
        assert_eq!(second.join().unwrap(), 200);
        // It began about when the first was answered.
        let first = first.join().unwrap().duration_since(asked);
        assert!(
            first > Duration::from_millis(400),
            "it took no time: {first:?}"
        );
        assert!(waited > first / 2, "after {waited:?} of {first:?}");
    });
}

#[test]
fn explanations_that_take_too_long_leave_a_neighbour_his_turn() {
    let app = TestApp::prepared(&[], |sql| {
        let other = sql::project(sql, "neighbour");
        KeyRow::good(other, "read", OTHER_KEY).insert(sql);
    });
    let (admin, neighbour) = (app.admin(), app.with_key(OTHER_KEY));
    let rules = json!({"targeting": costly(-1)});
    create(&admin, on_buy("costly", rules.clone()));
    let copies = "INSERT INTO campaigns (project_id, id, name, status, trigger, body, created_at) \
                  SELECT project_id, 'copy ' || n, name, status, trigger, body, created_at \
                  FROM campaigns, generate_series(1, 600) n";
    sql::run(&mut app.sql(), copies);
    // A change brings the copies with it.
    create(&admin, on_buy("costly", rules));
    let each: Vec<u32> = (0..1_000).collect();
    identify(&app.client(), "ada", json!({"a": each}));
    let question = json!({"user_id": "ada", "event": "buy"});
    let explain = || app.admin().post(PATH, &question);
    std::thread::scope(|scope| {
        let asked = [(); 2].map(|()| scope.spawn(explain));
        pause(Duration::from_secs(1));
        let nobody = json!({"event": "buy"});
        neighbour.post(PATH, &nobody).expect(200);
        for answer in asked {
            let answer = answer.join().unwrap();
            answer.expect_problem(503, "overloaded");
            assert!(!answer.header("retry-after").is_empty());
        }
    });
}
