//! What `/metrics` shows, to whom, and that it shows it whatever the database does.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

use beckon::telemetry::metrics::{ALL, Kind};
use serde_json::json;

use crate::support::app::{Launch, Server};
use crate::support::metrics::{Scrape, name_of, promtool};
use crate::support::postgres::postgres_server;
use crate::support::raw;
use crate::support::sql::{self, KeyRow, default_project};
use crate::support::{ADMIN_KEY, CLIENT_KEY, Client, TestApp, eventually, pause};

/// How long it may take until a figure is what it must be.
const SOON: Duration = Duration::from_secs(10);

/// How long one scrape may take, whatever the database does.
const SCRAPE_BOUND: Duration = Duration::from_secs(1);

/// Longer than a scrape's text is given again.
fn let_the_text_grow_old() {
    pause(Duration::from_millis(300));
}

fn track(client: &Client, user: &str, id: &str) -> u16 {
    let body = json!({"user_id": user, "event": "opened", "event_id": id});
    client.post("/v1/track", &body).status
}

/// A batch of good events and of some that no one can store.
fn mixed_batch(prefix: &str, good: usize, bad: usize) -> serde_json::Value {
    let good = (0..good).map(|number| {
        json!({"type": "track", "userId": "u", "event": "e",
            "messageId": format!("{prefix}-{number}")})
    });
    let bad = (0..bad).map(|_| json!({"type": "track", "event": "nobody"}));
    json!({"batch": good.chain(bad).collect::<Vec<_>>()})
}

#[test]
fn every_metric_that_is_described_is_there_and_no_other() {
    let app = TestApp::start();
    let campaign = json!({"name": "c", "status": "active", "trigger": "opened"});
    app.admin()
        .post("/v1/admin/campaigns", &campaign)
        .expect(201);
    for number in 0..3 {
        assert_eq!(track(&app.client(), "u", &number.to_string()), 200);
    }
    assert_eq!(track(&app.client(), "u", "0"), 200);
    let admin = app.admin();
    let described: BTreeSet<&str> = ALL.iter().map(|metric| metric.name).collect();
    eventually("every metric", SOON, || {
        let scrape = Scrape::of(&admin);
        let base = |series: &str| {
            let name = name_of(series);
            let histogram = ["_bucket", "_sum", "_count"]
                .iter()
                .filter_map(|suffix| name.strip_suffix(suffix))
                .find(|name| {
                    ALL.iter().any(|metric| {
                        metric.name == *name && matches!(metric.kind, Kind::Seconds | Kind::Events)
                    })
                });
            histogram.unwrap_or(name).to_owned()
        };
        let found: BTreeSet<String> = scrape.series.keys().map(|series| base(series)).collect();
        let found: BTreeSet<&str> = found.iter().map(String::as_str).collect();
        let strange: Vec<_> = found.difference(&described).collect();
        assert!(strange.is_empty(), "not described: {strange:?}");
        // What the database must be asked for comes within a moment.
        let is_sampled = !scrape.value("beckon_partition_horizon_seconds").is_nan();
        (is_sampled && found == described).then_some(())
    });
    // Each is of the kind and with the labels that the list says.
    let scrape = Scrape::of(&admin);
    for metric in ALL {
        let typed = format!("# TYPE {} {}\n", metric.name, metric.kind.as_str());
        assert!(scrape.text.contains(&typed), "{typed}");
        let suffix = match metric.kind {
            Kind::Seconds | Kind::Events => "_count",
            Kind::Counter | Kind::Gauge => "",
        };
        let name = format!("{}{suffix}", metric.name);
        let series = scrape.series.keys().find(|series| name_of(series) == name);
        let series = series.unwrap();
        let labels: BTreeSet<&str> = series
            .split(['{', ',', '}'])
            .filter_map(|part| part.split_once('=').map(|(label, _)| label))
            .collect();
        assert_eq!(labels, metric.labels.iter().copied().collect(), "{series}");
    }
    let project = default_project(&mut app.sql());
    // The repetition is not counted again.
    assert_eq!(scrape.value("beckon_decisions_total"), 3.0);
    assert_eq!(scrape.value("beckon_matches_total"), 3.0);
    let campaigns = format!("beckon_snapshot_campaigns{{project=\"{project}\"}}");
    assert_eq!(scrape.value(&campaigns), 1.0);
    assert_eq!(scrape.value("beckon_ready"), 1.0);
    assert_eq!(scrape.value("beckon_hub_connected"), 1.0);
    assert_eq!(scrape.value("beckon_nodes"), 1.0);
    let days = scrape.value("beckon_partition_horizon_seconds") / 86_400.0;
    assert!((7.0..=8.0).contains(&days), "{days}");
    assert_eq!(
        scrape.value("beckon_partitions_ahead_seconds"),
        7.0 * 86_400.0
    );
    assert_eq!(scrape.value("beckon_retention_lag_seconds"), 0.0);
    assert_eq!(scrape.value("beckon_retention_pause_seconds"), 86_400.0);
    assert!(scrape.value("process_resident_memory_bytes") > 1e6);
    eventually("people are remembered", SOON, || {
        let scrape = Scrape::of(&admin);
        let states = "beckon_people_cache_entries{cache=\"states\"}";
        (scrape.value(states) == 1.0).then_some(())
    });
}

#[test]
fn nothing_is_decided_that_nobody_reads() {
    let app = TestApp::start();
    let campaign = json!({"name": "c", "status": "active", "trigger": "e"});
    app.admin()
        .post("/v1/admin/campaigns", &campaign)
        .expect(201);
    let client = app.client();
    let identify = json!({"type": "identify", "userId": "u", "messageId": "i"});
    client.post("/v1/batch", &mixed_batch("unread", 3, 0));
    client.post("/v1/identify", &identify).expect(200);
    client
        .post("/v1/batch?matched=true", &mixed_batch("read", 3, 0))
        .expect(200);
    assert_eq!(
        Scrape::of(&app.admin()).value("beckon_decisions_total"),
        3.0
    );
}

#[test]
fn what_fails_in_flags_and_segments_is_counted() {
    let app = TestApp::start();
    let (admin, client) = (app.admin(), app.client());
    let traits = json!({"user_id": "u", "traits": {"total": "much"}});
    client.post("/v1/identify", &traits).expect(200);
    let fails = json!({">": [{"-": [{"var": "user.traits.total"}, 1]}, 0]});
    let flag = json!({"key": "f", "targeting": fails});
    admin.post("/v1/admin/features", &flag).expect(200);
    let segment = json!({"name": "s", "targeting": fails});
    admin.post("/v1/admin/segments", &segment).expect(201);
    let inside = json!({"key": "g", "targeting": {"in_segment": "s"}});
    admin.post("/v1/admin/features", &inside).expect(200);
    let errors = || Scrape::of(&admin).sum("beckon_rule_errors_total", "");
    for (path, expected) in [
        ("/v1/features/f?user_id=u", 1.0),
        ("/v1/features/g?user_id=u", 2.0),
        ("/v1/admin/users/u", 3.0),
        ("/v1/features/absent?user_id=u", 3.0),
    ] {
        let reader = if path.contains("admin") {
            &admin
        } else {
            &client
        };
        reader.get(path).expect(200);
        let_the_text_grow_old();
        let counted = errors();
        assert!((counted - expected).abs() < 0.5, "{path}: {counted}");
    }
}

#[test]
fn a_scrape_is_what_prometheus_reads() {
    let app = TestApp::start();
    track(&app.client(), "u", "1");
    app.nobody().get("/v1/nope");
    promtool(&["check", "metrics"], &Scrape::of(&app.admin()).text);
}

#[test]
fn every_event_is_accounted_for() {
    let postgres = postgres_server();
    let launch = Launch::new(&postgres.url())
        .set("BECKON_INGEST_SHARDS", "1")
        .set("BECKON_INGEST_QUEUE_EVENTS", "100");
    let server = Server::start(&launch);
    server.wait_until_ready();
    let client = Client::new(server.base()).key(CLIENT_KEY);
    let admin = Client::new(server.base()).key(ADMIN_KEY);
    for number in 0..5 {
        assert_eq!(track(&client, "u", &number.to_string()), 200);
    }
    for number in 0..2 {
        assert_eq!(track(&client, "u", &number.to_string()), 200);
    }
    client
        .post("/v1/batch", &mixed_batch("a", 10, 3))
        .expect(200);
    client
        .post("/v1/batch", &mixed_batch("a", 12, 1))
        .expect(200);
    // A call for the server alone is no event, and neither is what cannot be read.
    client.post("/v1/m", &json!({"series": []})).expect(200);
    assert_eq!(client.post_text("/v1/track", "{").status, 400);
    let mut connection = diesel::Connection::establish(&postgres.url()).unwrap();
    let project = default_project(&mut connection);
    let count = |scrape: &Scrape, name: &str| {
        let label = format!("project=\"{project}\"");
        scrape.sum(&format!("beckon_ingest_{name}_events_total"), &label)
    };
    let_the_text_grow_old();
    let scrape = Scrape::of(&admin);
    let all = ["received", "stored", "duplicate", "rejected", "failed"];
    let counts = all.map(|name| count(&scrape, name));
    assert_eq!(counts, [33.0, 17.0, 12.0, 4.0, 0.0], "{}", scrape.text);
    let missing = format!(
        "beckon_ingest_rejected_events_total{{code=\"missing_identity\",project=\"{project}\"}}"
    );
    assert_eq!(scrape.value(&missing), 4.0);
    let stored = sql::number(&mut connection, "SELECT count(*) FROM events");
    assert_eq!(stored, 17);
    let rejected = sql::number(&mut connection, "SELECT count(*) FROM rejected_events");
    assert_eq!(rejected, 4);

    // While nothing is committed the queue fills: some wait until their deadline, others are
    // refused at once, and one caller leaves.
    postgres.freeze();
    let statuses: Vec<u16> = thread::scope(|scope| {
        let callers: Vec<_> = (0..6)
            .map(|number| {
                let client = &client;
                let batch = mixed_batch(&format!("frozen-{number}"), 55, 5);
                scope.spawn(move || client.post("/v1/batch", &batch).status)
            })
            .collect();
        eventually("they wait", SOON, || {
            (count(&Scrape::of(&admin), "received") > 300.0).then_some(())
        });
        let callers = callers.into_iter();
        callers.map(|caller| caller.join().unwrap()).collect()
    });
    assert_eq!(statuses, [503; 6]);
    let_the_text_grow_old();
    let scrape = Scrape::of(&admin);
    let failed = |code: &str| {
        let code = format!("code=\"{code}\"");
        scrape.sum("beckon_ingest_failed_events_total", &code)
    };
    assert!(failed("overloaded") >= 60.0, "{}", scrape.text);
    assert!(failed("database_unavailable") >= 60.0, "{}", scrape.text);
    assert_eq!(count(&scrape, "failed"), 360.0);
    assert_eq!(scrape.difference(project), 0.0, "{}", scrape.text);
    postgres.thaw();

    eventually("track works again", SOON, || {
        (track(&client, "u", "after") == 200).then_some(())
    });
    let_the_text_grow_old();
    let scrape = Scrape::of(&admin);
    assert_eq!(scrape.difference(project), 0.0, "{}", scrape.text);
    let label = format!("{{project=\"{project}\"}}");
    assert_eq!(
        scrape.value(&format!("beckon_ingest_in_flight_events{label}")),
        0.0
    );
    let unaccounted = format!("beckon_ingest_unaccounted_events_total{label}");
    assert_eq!(scrape.value(&unaccounted), 0.0);
}

fn owned((name, value): (&str, &str)) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

#[test]
fn the_event_of_a_caller_that_leaves_is_accounted_for() {
    let postgres = postgres_server();
    let server = Server::start(&Launch::new(&postgres.url()));
    server.wait_until_ready();
    let client = Client::new(server.base()).key(CLIENT_KEY);
    let admin = Client::new(server.base()).key(ADMIN_KEY);
    assert_eq!(track(&client, "u", "1"), 200);
    Scrape::of(&admin);
    postgres.freeze();
    let body = json!({"user_id": "u", "event": "e"}).to_string();
    let headers = [("host", "a"), ("x-api-key", CLIENT_KEY)].map(owned);
    let bytes = raw::request("POST", "/v1/track", &headers, body.as_bytes());
    let mut stream = std::net::TcpStream::connect(server.address()).unwrap();
    std::io::Write::write_all(&mut stream, &bytes).unwrap();
    eventually("it waits", SOON, || {
        let scrape = Scrape::of(&admin);
        (scrape.sum("beckon_ingest_in_flight_events", "") == 1.0).then_some(())
    });
    drop(stream);
    // Its answer finds nobody, and is counted all the same.
    eventually("it is counted as failed", SOON, || {
        let scrape = Scrape::of(&admin);
        let in_flight = scrape.sum("beckon_ingest_in_flight_events", "");
        let failed = scrape.sum("beckon_ingest_failed_events_total", "");
        (in_flight == 0.0 && failed == 1.0).then_some(())
    });
    postgres.thaw();
}

#[test]
fn no_caller_can_make_a_series() {
    let app = TestApp::start();
    let hostile = |number: usize| {
        let odd = format!("x{number}\u{e4}\"}}{{project=\\\"9\\\"");
        let headers = [
            ("host", format!("{number}.example").as_str()),
            ("x-api-key", CLIENT_KEY),
            ("user-agent", &format!("agent-{number}")),
            ("origin", &format!("https://{number}.example")),
            ("x-request-id", &format!("id-{number}")),
        ]
        .map(owned);
        let send = |method: &str, path: &str, body: &str| {
            let bytes = raw::request(method, path, &headers, body.as_bytes());
            assert!(raw::exchange(app.address(), &bytes).is_some(), "{path}");
        };
        send("GET", &format!("/{number}"), "");
        send("GET", &format!("/metrics/{number}"), "");
        send("POST", &format!("/v1/track/{number}"), "{}");
        send(&format!("ODD{number}"), "/v1/track", "{}");
        send("PUT", &format!("/v1/admin/campaigns/{number}"), "{}");
        send("GET", &format!("/v1/features/flag-{number}"), "");
        send("GET", &format!("/docs/{number}"), "");
        let event = json!({"user_id": odd, "event": odd, "event_id": odd,
            "properties": {odd.clone(): odd}});
        send("POST", "/v1/track", &event.to_string());
        let event = json!({"userId": odd, "type": odd, "code": odd});
        send(
            "POST",
            "/v1/batch",
            &json!({"batch": [event, {"type": "track"}]}).to_string(),
        );
        let keys = [("host", "a"), ("x-api-key", &format!("unknown-{number}"))].map(owned);
        let bytes = raw::request("GET", "/v1/admin/users", &keys, b"");
        assert!(raw::exchange(app.address(), &bytes).is_some());
    };
    let names = || {
        let_the_text_grow_old();
        let scrape = Scrape::of(&app.admin());
        scrape.series.into_keys().collect::<BTreeSet<_>>()
    };
    hostile(0);
    eventually("what the database must be asked for", SOON, || {
        let scrape = Scrape::of(&app.admin());
        (!scrape.value("beckon_partition_horizon_seconds").is_nan()).then_some(())
    });
    let before = names();
    assert!(
        before
            .iter()
            .any(|series| series.contains("method=\"other\",route=\"none\""))
    );
    for number in 1..30 {
        hostile(number);
    }
    let more = names();
    let more: Vec<_> = more.difference(&before).collect();
    assert!(more.is_empty(), "{more:?}");
    for series in before {
        assert!(!series.contains("x0"), "{series}");
    }
}

#[test]
fn a_scrape_works_while_the_database_is_gone() {
    let mut postgres = postgres_server();
    let server = Server::start(&Launch::new(&postgres.url()));
    server.wait_until_ready();
    let client = Client::new(server.base()).key(CLIENT_KEY);
    let admin = Client::new(server.base()).key(ADMIN_KEY);
    assert_eq!(track(&client, "u", "1"), 200);
    assert_eq!(Scrape::of(&admin).value("beckon_hub_connected"), 1.0);
    for is_frozen in [true, false] {
        if is_frozen {
            postgres.freeze();
        } else {
            postgres.kill();
        }
        assert_eq!(track(&client, "u", "2"), 503);
        let stale = |scrape: &Scrape| scrape.value("beckon_staleness_seconds");
        let mut last = 0.0;
        eventually("the staleness tells", SOON, || {
            let started = Instant::now();
            let scrape = Scrape::of(&admin);
            let took = started.elapsed();
            assert!(took < SCRAPE_BOUND, "{took:?}");
            let now = stale(&scrape);
            let grows = now > last && now > 2.0;
            last = now;
            grows.then_some(())
        });
        if is_frozen {
            postgres.thaw();
        } else {
            eventually("the hub knows", SOON, || {
                (Scrape::of(&admin).value("beckon_hub_connected") == 0.0).then_some(())
            });
            postgres.start_again();
        }
        eventually("all is well again", SOON, || {
            let scrape = Scrape::of(&admin);
            let is_current = stale(&scrape) < 2.0 && scrape.value("beckon_hub_connected") == 1.0;
            (is_current && track(&client, "u", "3") == 200).then_some(())
        });
    }
    let_the_text_grow_old();
    let scrape = Scrape::of(&admin);
    assert!(scrape.value("beckon_ingest_batch_failures_total") >= 1.0);
    assert!(scrape.value("beckon_ingest_connects_total") >= 2.0);
}

/// A port that was free a moment ago.
fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

#[test]
fn a_key_shows_its_own_project_and_an_address_of_its_own_shows_all() {
    let apart = free_address();
    let other_key = "read_key_of_another_project_0123456789";
    let app = TestApp::prepared(&[("BECKON_METRICS_LISTEN", &apart)], |sql| {
        let other = sql::project(sql, "other");
        KeyRow::good(other, "client", "client_key_of_another_project_01234").insert(sql);
        KeyRow::good(other, "read", other_key).insert(sql);
    });
    let own = default_project(&mut app.sql());
    let other = own + 1;
    let elsewhere = app.with_key("client_key_of_another_project_01234");
    assert_eq!(track(&app.client(), "u", "1"), 200);
    assert_eq!(track(&elsewhere, "u", "1"), 200);
    assert_eq!(track(&elsewhere, "u", "2"), 200);
    let received =
        |project: i64| format!("beckon_ingest_received_events_total{{project=\"{project}\"}}");
    let_the_text_grow_old();
    let mine = Scrape::of(&app.admin());
    let theirs = Scrape::of(&app.with_key(other_key));
    let all = Scrape::of(&Client::new(&format!("http://{apart}")));
    assert_eq!(mine.value(&received(own)), 1.0);
    assert!(!mine.series.contains_key(&received(other)));
    assert!(!mine.text.contains(&format!("project=\"{other}\"")));
    assert_eq!(theirs.value(&received(other)), 2.0);
    assert!(!theirs.text.contains(&format!("project=\"{own}\"")));
    assert_eq!(all.value(&received(own)), 1.0);
    assert_eq!(all.value(&received(other)), 2.0);
    assert_eq!(theirs.value("beckon_nodes"), 1.0);
    // Nothing else is served there.
    let apart = Client::new(&format!("http://{apart}")).key(ADMIN_KEY);
    for path in ["/v1/admin/users", "/livez", "/docs", "/"] {
        assert_eq!(apart.get(path).status, 404, "{path}");
    }
    app.nobody()
        .get("/metrics")
        .expect_problem(401, "missing_key");
    app.client()
        .get("/metrics")
        .expect_problem(403, "forbidden");
}

#[test]
fn who_may_scrape_is_a_setting() {
    let public = TestApp::start_with(&[("BECKON_METRICS", "public")]);
    assert_eq!(Scrape::of(&public.nobody()).value("beckon_ready"), 1.0);
    let off = TestApp::start_with(&[("BECKON_METRICS", "off")]);
    off.admin()
        .get("/metrics")
        .expect_problem(404, "route_not_found");
}

#[test]
fn scrapes_count_against_no_limit() {
    let app = TestApp::start_with(&[
        ("BECKON_KEY_REQUESTS_PER_SECOND", "1"),
        ("BECKON_ADDRESS_REQUESTS_PER_SECOND", "1"),
    ]);
    let admin = app.admin();
    for _ in 0..20 {
        assert_eq!(admin.get("/metrics").status, 200);
    }
}
