//! A database that is stopped, killed or not there: every call is answered in time, and all is
//! well again without a restart.

use std::thread;
use std::time::{Duration, Instant};

use beckon::store::{Store, StoreOptions};
use diesel::connection::SimpleConnection;
use serde_json::json;

use crate::support::app::{Launch, Server};
use crate::support::journal::Load;
use crate::support::postgres::{DedicatedServer, database, postgres_server};
use crate::support::severed::{Cut, SeverablePostgres};
use crate::support::{ADMIN_KEY, CLIENT_KEY, Client, TestApp, eventually, is_soak, pause, sql};

/// How long a call may take while the database does not answer: the 2 s that are promised, and
/// some for the way.
const ANSWER_BOUND: Duration = Duration::from_millis(2_500);
/// How long a step of a load may take on a slow machine.
const LONG: Duration = Duration::from_secs(60);
/// How much memory waiting callers may cost.
const GROWTH_BYTES_MAX: u64 = 64 * 1024 * 1024;

fn track(client: &Client, user: &str) -> u16 {
    let body = json!({"user_id": user, "event": "e"}).to_string();
    client
        .send("POST", "/v1/track", &[], Some(body.as_bytes()))
        .status
}

/// Checks what every caller gets while there is no database.
fn check_without_database(server: &Server) {
    let client = Client::new(server.base()).key(CLIENT_KEY);
    let admin = Client::new(server.base()).key(ADMIN_KEY);
    let event = json!({"user_id": "u", "event": "e"});
    let batch = json!({"batch": [{"type": "track", "userId": "u", "event": "e"}]});
    let calls = [
        (&client, "POST", "/v1/track", Some(event)),
        (
            &client,
            "POST",
            "/v1/identify",
            Some(json!({"user_id": "new", "traits": {"a": 1}})),
        ),
        (&client, "POST", "/v1/batch", Some(batch)),
        (
            &client,
            "POST",
            "/v1/track",
            Some(json!({"user_id": "somebody new", "event": "e"})),
        ),
        (&admin, "GET", "/v1/admin/events", None),
        (&admin, "GET", "/v1/admin/users", None),
        (
            &admin,
            "POST",
            "/v1/admin/campaigns",
            Some(json!({"name": "n"})),
        ),
        (&admin, "GET", "/v1/analytics/overview", None),
    ];
    thread::scope(|scope| {
        for (client, method, path, body) in &calls {
            scope.spawn(move || {
                let started = Instant::now();
                let body = body.as_ref().map(|body| body.to_string().into_bytes());
                let answer = client.send(method, path, &[], body.as_deref());
                let took = started.elapsed();
                let problem = answer.expect_problem(503, "database_unavailable");
                assert!(took < ANSWER_BOUND, "{method} {path} took {took:?}");
                let retry: u64 = answer.header("retry-after").parse().unwrap();
                assert!((1..=300).contains(&retry), "{method} {path}: {retry}");
                let text = problem.to_string();
                for inner in ["postgres", "socket", "connection", "SQL"] {
                    assert!(!text.contains(inner), "{method} {path} tells {text}");
                }
            });
        }
    });
    check_probes(server, 503);
}

/// The probes answer at once, whatever the database does.
fn check_probes(server: &Server, ready: u16) {
    let nobody = Client::new(server.base());
    for (path, status) in [("/livez", 200), ("/v1/health", 200), ("/readyz", ready)] {
        let started = Instant::now();
        let answer = nobody.get(path);
        let took = started.elapsed();
        assert_eq!(answer.status, status, "{path}: {}", answer.text());
        assert!(took < ANSWER_BOUND, "{path} took {took:?}");
    }
}

/// How long the server may take to be well again once the database is: the promise is 5 s, and
/// other tests run beside the short form.
fn recovery_bound() -> Duration {
    Duration::from_secs(if is_soak() { 5 } else { 10 })
}

/// Checks what a load was told while the database was away, and its promises. A call that heard 503
/// may have been committed once the database went on; then its repetition was a duplicate.
fn check_load(load: Load, postgres: &DedicatedServer, server: &Server, prefix: &str) {
    load.wait_for(200, LONG);
    let journal = load.end();
    let slowest = journal.refusal_percentile(100);
    println!(
        "refused {:?}, the slowest took {slowest:?}; {} duplicates",
        journal.refused, journal.duplicates
    );
    let statuses: Vec<_> = journal.refused.keys().collect();
    assert_eq!(statuses, [&503]);
    assert_eq!(journal.unanswered, 0, "the server answers all the same");
    assert!(slowest < ANSWER_BOUND, "the slowest took {slowest:?}");
    journal.check_with_metrics(&mut postgres.connect(), prefix, server.base());
}

/// Waits until the server says that it is well again, and checks that it is, for people of any shard.
fn check_recovery(server: &Server) {
    eventually("ready again", recovery_bound(), || {
        (Client::new(server.base()).get("/readyz").status == 200).then_some(())
    });
    let client = Client::new(server.base()).key(CLIENT_KEY);
    for number in 0..20 {
        let body = json!({"user_id": format!("after-{number}"), "event": "e"}).to_string();
        let answer = client.send("POST", "/v1/track", &[], Some(body.as_bytes()));
        assert_eq!(answer.status, 200, "call {number}: {}", answer.text());
    }
    let admin = Client::new(server.base()).key(ADMIN_KEY);
    admin.get("/v1/admin/users").expect(200);
}

#[test]
fn a_frozen_postgres_costs_time_and_nothing_else() {
    let postgres = postgres_server();
    let server = Server::start(&Launch::new(&postgres.url()));
    server.wait_until_ready();
    // Callers that do not stop calling, as clients do not.
    let load = Load::mixed(server.base(), 32, "frozen");
    load.wait_for(300, LONG);
    let before = server.memory_bytes("VmRSS");
    let frozen_for = Duration::from_secs(if is_soak() { 30 } else { 5 });
    postgres.freeze();
    let started = Instant::now();
    check_without_database(&server);
    // By now the last answers from before have arrived.
    let acknowledged = load.acknowledged();
    pause(frozen_for.saturating_sub(started.elapsed()));
    let grown = server.memory_bytes("VmRSS").saturating_sub(before);
    assert_eq!(load.acknowledged(), acknowledged, "without a commit");
    postgres.thaw();
    assert!(grown < GROWTH_BYTES_MAX, "grown by {grown} bytes");
    check_recovery(&server);
    check_load(load, &postgres, &server, "frozen");
}

/// A key is read again every now and then. Waiting for that is a part of the wait for the database.
#[test]
fn a_call_waits_for_its_key_and_its_commit_no_longer_than_for_one() {
    let postgres = postgres_server();
    let launch = Launch::new(&postgres.url()).set("BECKON_DATABASE_DEADLINE_MS", "600");
    let server = Server::start(&launch);
    server.wait_until_ready();
    let client = Client::new(server.base()).key(CLIENT_KEY);
    let waits = (0..3).map(|_| {
        eventually("track works", recovery_bound(), || {
            (track(&client, "u") == 200).then_some(())
        });
        postgres.freeze();
        // Longer than a key is trusted without another look.
        pause(Duration::from_millis(700));
        let started = Instant::now();
        let status = track(&client, "u");
        let took = started.elapsed();
        postgres.thaw();
        assert_eq!(status, 503);
        took
    });
    let quickest = waits.min().unwrap();
    println!("{quickest:?}");
    // Both waits one after the other would be 850 ms.
    assert!(quickest < Duration::from_millis(800), "{quickest:?}");
}

#[test]
fn every_route_answers_in_time_while_the_database_does_not() {
    let postgres = postgres_server();
    let server = Server::start(&Launch::new(&postgres.url()));
    server.wait_until_ready();
    let admin = Client::new(server.base()).key(ADMIN_KEY);
    let document = admin.get("/openapi.json").expect(200);
    let mut calls = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in ["get", "put", "post", "patch", "delete"] {
            if item.get(method).is_some() {
                // Whatever a parameter is, this is a good form of it.
                let path = path.replace(['{', '}'], "");
                calls.push((method.to_uppercase(), path));
            }
        }
    }
    assert!(calls.len() > 40, "{}", calls.len());
    // The key is known from here on, so that calls get as far as the database.
    admin.get("/v1/admin/users").expect(200);
    postgres.freeze();
    let body = json!({
        "user_id": "u", "event": "e", "name": "n", "scope": "client", "key": "k",
        "batch": [{"type": "track", "userId": "u", "event": "e"}],
        "leads": [{"email": "a@example.com"}],
    })
    .to_string();
    let answers: Vec<(String, u16, Duration)> = thread::scope(|scope| {
        let callers: Vec<_> = calls
            .iter()
            .map(|(method, path)| {
                let (admin, body) = (&admin, &body);
                scope.spawn(move || {
                    let started = Instant::now();
                    let body = (method != "GET").then_some(body.as_bytes());
                    let answer = admin.send(method, path, &[], body);
                    let took = started.elapsed();
                    (format!("{method} {path}"), answer.status, took)
                })
            })
            .collect();
        callers
            .into_iter()
            .map(|caller| caller.join().unwrap())
            .collect()
    });
    postgres.thaw();
    for (call, status, took) in &answers {
        assert!(*took < ANSWER_BOUND, "{call}: {status} after {took:?}");
        assert_ne!(*status, 500, "{call}");
    }
    let waited = answers.iter().filter(|(_, status, _)| *status == 503);
    assert!(
        waited.count() > 30,
        "the database was not missed: {answers:?}"
    );
}

#[test]
fn a_killed_postgres_is_used_again_when_it_is_back() {
    let mut postgres = postgres_server();
    let server = Server::start(&Launch::new(&postgres.url()));
    server.wait_until_ready();
    let load = Load::mixed(server.base(), 16, "killed");
    load.wait_for(100, LONG);
    postgres.kill();
    // The first calls find broken connections, the next ones no server at all.
    check_without_database(&server);
    check_without_database(&server);
    postgres.start_again();
    check_recovery(&server);
    check_load(load, &postgres, &server, "killed");
}

#[test]
fn a_server_whose_events_are_not_written_is_not_ready() {
    let app = TestApp::start();
    let ready = || {
        let answer = app.nobody().get("/readyz");
        let metrics = app.admin().get("/metrics").text();
        let is_good = metrics.lines().any(|line| line == "beckon_ready 1");
        (answer.status, is_good, answer)
    };
    let (status, is_good, _) = ready();
    assert_eq!((status, is_good), (200, true));
    let mut lock = app.sql();
    lock.batch_execute("BEGIN; LOCK TABLE message_ids_0, message_ids_1 IN ACCESS EXCLUSIVE MODE")
        .unwrap();
    let event = json!({"userId": "u", "event": "e", "messageId": "m"});
    let written = || app.client().post("/v1/track", &event).status;
    assert_eq!(written(), 503);
    eventually("not ready", LONG, || (ready().0 == 503).then_some(()));
    let (_, is_good, answer) = ready();
    assert_eq!(answer.json()["failed"], "ingest", "{}", answer.text());
    assert!(!is_good);
    lock.batch_execute("COMMIT").unwrap();
    eventually("ready again", LONG, || {
        let (status, is_good, _) = ready();
        (status == 200 && is_good).then_some(())
    });
    assert_eq!(written(), 200);
}

#[test]
fn a_postgres_that_comes_later_is_found() {
    let mut postgres = postgres_server();
    postgres.kill();
    let launch = Launch::new(&postgres.url())
        .set("BECKON_KEY_MISSES_PER_MINUTE", "40")
        .set("BECKON_LOG", "info");
    let server = Server::start(&launch);
    check_probes(&server, 503);
    let client = Client::new(server.base()).key(CLIENT_KEY);
    // However often it is asked, the log says once why.
    for _ in 0..3 {
        assert_eq!(client.get("/readyz").status, 503);
    }
    let lines = |text: &str| {
        let log = server.log();
        log.lines().filter(|line| line.contains(text)).count()
    };
    assert_eq!(lines("the server is not ready"), 1, "{}", server.log());
    assert_eq!(lines(r#""failed":"database""#), 1, "{}", server.log());
    assert_eq!(lines("request failed"), 0, "{}", server.log());
    assert_eq!(lines("/readyz"), 0, "{}", server.log());
    // Nobody's key can be checked, so nobody is told that it is bad, or one of too many.
    let load = Load::mixed(server.base(), 16, "later");
    let started = Instant::now();
    assert_eq!(track(&client, "u"), 503);
    assert!(started.elapsed() < ANSWER_BOUND);
    pause(Duration::from_secs(1));
    assert_eq!(load.acknowledged(), 0, "without a database");
    postgres.start_again();
    check_recovery(&server);
    check_load(load, &postgres, &server, "later");
}

#[test]
fn a_postgres_that_may_lose_commits_is_not_good_enough() {
    let postgres = postgres_server();
    let mut connection = postgres.connect();
    let mut switch = |name: &str, value: &str| {
        sql::run(
            &mut connection,
            &format!("ALTER SYSTEM SET {name} = {value}"),
        );
        sql::run(&mut connection, "SELECT pg_reload_conf()");
        eventually("the setting", Duration::from_secs(10), || {
            let query = format!("SELECT current_setting('{name}') AS value");
            (sql::texts(&mut connection, &query) == [value]).then_some(())
        });
    };
    let launch = Launch::new(&postgres.url());
    for name in ["fsync", "full_page_writes"] {
        switch(name, "off");
        // It runs, says why, and is not ready until the setting is safe.
        let server = Server::start(&launch);
        let why = format!("the database has {name} off");
        eventually("it says why", LONG, || {
            server.log().contains(&why).then_some(())
        });
        check_probes(&server, 503);
        switch(name, "on");
        server.wait_until_ready();
    }
    switch("fsync", "off");
    let told = launch.set("BECKON_ALLOW_UNSAFE_DATABASE", "true");
    Server::start(&told).wait_until_ready();
}

/// Whatever is usual in the database, a commit that is acknowledged has been synced.
#[test]
fn every_session_waits_for_its_commits() {
    let database = database();
    let mut admin = database.connect();
    let name = sql::texts(&mut admin, "SELECT current_database()::text AS value").concat();
    let off = format!("ALTER DATABASE {name} SET synchronous_commit = off");
    sql::run(&mut admin, &off);
    let value = "SELECT current_setting('synchronous_commit') AS value";
    assert_eq!(sql::texts(&mut database.connect(), value), ["off"]);

    let mut own = beckon::store::connect(&database.url).unwrap();
    assert_eq!(sql::texts(&mut own, value), ["on"]);
    let store = Store::new(StoreOptions {
        url: database.url.clone(),
        pool_size: 1,
        deadline: Duration::from_secs(20),
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let pooled = runtime.block_on(store.run(|sql| Ok(sql::texts(sql, value))));
    assert_eq!(pooled.unwrap(), ["on"]);
}

#[test]
fn every_answer_carries_a_request_id_and_every_refusal_its_form() {
    let app = TestApp::start();
    let nobody = app.nobody();
    let first = nobody.get("/livez");
    let second = nobody.get("/livez");
    assert!(!first.header("x-request-id").is_empty());
    assert_ne!(first.header("x-request-id"), second.header("x-request-id"));

    let missing = nobody.get("/v1/nope");
    let body = missing.expect_problem(404, "route_not_found");
    assert_eq!(body["instance"], missing.header("x-request-id"), "{body}");
    let wrong = app.client().delete("/v1/track");
    wrong.expect_problem(405, "method_not_allowed");
    app.client()
        .get("/v1/track")
        .expect_problem(405, "method_not_allowed");
    let invalid = app.client().post("/v1/track", &json!({"user_id": "u"}));
    let body = invalid.expect_problem(400, "invalid_field");
    let detail = &body["details"][0];
    for (member, value) in [("type", "field"), ("path", "event"), ("location", "body")] {
        assert_eq!(detail[member], value, "{body}");
    }
    let health = nobody.get("/v1/health").expect(200);
    assert_eq!(health["status"], "ok", "{health}");
    // A header of a client's own choosing does not get into the log's lines or the answer raw.
    let odd = nobody.send("GET", "/v1/nope", &[("x-request-id", "a b<script>")], None);
    assert!(
        !odd.header("x-request-id").contains('<'),
        "{:?}",
        odd.headers
    );
}

/// A connection that is lost is no reason to give up, whatever was asked on it.
#[test]
fn a_connection_lost_while_the_keys_are_made_is_opened_again() {
    let database = database();
    let way = SeverablePostgres::before(&mut database.connect());
    way.cut("FROM projects WHERE name", Cut::Request);
    let server = Server::start(&Launch::new(&way.url));
    server.wait_until_ready();
    assert!(way.has_cut());
}
