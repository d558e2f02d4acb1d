//! While the database is gone, applications read on what the server knew last; afterwards changes
//! are live again, even one whose notification was lost.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::campaign_flow::{create, fetched, identify};
use crate::support::app::{Launch, Server};
use crate::support::postgres::{DedicatedServer, postgres_server};
use crate::support::{ADMIN_KEY, CLIENT_KEY, Client, TestApp, eventually, is_soak, pause, sql};

/// How long a read may take, whatever the database does.
const ANSWER_BOUND: Duration = Duration::from_millis(2_500);

/// How long the server may take to be well again once the database is.
const RECOVERY_BOUND: Duration = Duration::from_secs(20);

/// Readers during an outage.
const READERS: usize = 4;

fn outage() -> Duration {
    Duration::from_secs(if is_soak() { 300 } else { 4 })
}

/// What is shown to those who pay.
fn for_payers(name: &str) -> Value {
    json!({"name": name, "status": "active",
           "targeting": {"==": [{"var": "user.traits.plan"}, "pro"]}})
}

/// A server on a database that may be hurt, with a campaign and a flag for Ada, who pays, and not
/// for Bob, who does not.
struct Scene {
    postgres: DedicatedServer,
    server: Server,
    campaign: String,
}

impl Scene {
    fn set() -> Self {
        let postgres = postgres_server();
        let server = Server::start(&Launch::new(&postgres.url()));
        server.wait_until_ready();
        let admin = Client::new(server.base()).key(ADMIN_KEY);
        let campaign = create(&admin, for_payers("before"));
        let flag = json!({"key": "new-look", "value": {"theme": 7},
                          "targeting": for_payers("")["targeting"]});
        admin.post("/v1/admin/features", &flag).expect(200);
        let scene = Self {
            postgres,
            server,
            campaign,
        };
        let client = scene.client();
        identify(&client, "ada", json!({"plan": "pro"}));
        identify(&client, "bob", json!({"plan": "free"}));
        scene.check_reads(&client, "before");
        scene
    }

    fn client(&self) -> Client {
        Client::new(self.server.base()).key(CLIENT_KEY)
    }

    /// Reads as both of them, and checks every answer.
    fn check_reads(&self, client: &Client, campaign: &str) {
        let get = |path: &str| {
            let started = Instant::now();
            let answer = client.get(path).expect(200);
            let took = started.elapsed();
            assert!(took < ANSWER_BOUND, "{path} took {took:?}");
            answer
        };
        let shown = get("/v1/campaigns?user_id=ada");
        assert_eq!(shown["campaigns"][0]["name"], campaign, "{shown}");
        assert_eq!(shown["campaigns"][0]["id"], self.campaign, "{shown}");
        let hidden = get("/v1/campaigns?user_id=bob");
        assert_eq!(hidden, json!({"campaigns": []}));
        let on = get("/v1/features/new-look?user_id=ada");
        assert_eq!(
            (&on["enabled"], &on["value"]),
            (&json!(true), &json!({"theme": 7}))
        );
        let off = get("/v1/features/new-look?user_id=bob");
        assert_eq!(
            (&off["enabled"], &off["value"]),
            (&json!(false), &Value::Null)
        );
    }

    /// Reads on and on for as long as the outage is to last; writes are refused meanwhile.
    fn check_outage(&self) {
        let end = Instant::now() + outage();
        let reads: u64 = thread::scope(|scope| {
            let readers: Vec<_> = (0..READERS)
                .map(|_| {
                    scope.spawn(|| {
                        let (client, mut reads) = (self.client(), 0);
                        while Instant::now() < end {
                            self.check_reads(&client, "before");
                            reads += 1;
                            pause(Duration::from_millis(20));
                        }
                        reads
                    })
                })
                .collect();
            let client = self.client();
            let body = json!({"user_id": "ada", "event": "e"}).to_string();
            while Instant::now() < end {
                let track = client.send("POST", "/v1/track", &[], Some(body.as_bytes()));
                assert_eq!(track.status, 503, "the database is not missed");
                pause(Duration::from_millis(200));
            }
            readers
                .into_iter()
                .map(|reader| reader.join().unwrap())
                .sum()
        });
        println!("{reads} reads of each kind");
        assert!(reads >= READERS as u64, "{reads} reads");
    }

    /// A change is taken again soon, and is live once it is.
    fn check_return(&self) {
        let admin = Client::new(self.server.base()).key(ADMIN_KEY);
        let path = format!("/v1/admin/campaigns/{}", self.campaign);
        eventually("a change is taken again", RECOVERY_BOUND, || {
            let answer = admin.put(&path, &for_payers("after"));
            assert!(matches!(answer.status, 200 | 503), "{}", answer.text());
            (answer.status == 200).then_some(())
        });
        self.check_reads(&self.client(), "after");
        // What is changed behind the server's back is seen again, too.
        change_quietly(&mut self.postgres.connect(), &self.campaign, "quietly");
        eventually("the hub follows again", RECOVERY_BOUND, || {
            (fetched(&self.client(), "ada") == ["quietly"]).then_some(())
        });
    }
}

/// Renames a campaign as the server itself would on another node, but tells nobody.
fn change_quietly(connection: &mut diesel::PgConnection, campaign: &str, name: &str) {
    let id = sql::quoted(campaign);
    sql::run(
        connection,
        &format!(
            "BEGIN;
             UPDATE project_revisions SET revision = revision + 1
             WHERE project_id = (SELECT project_id FROM campaigns WHERE id = {id});
             UPDATE campaigns SET name = '{name}', version = version + 1, updated_at = now(),
                 body = jsonb_set(body::jsonb, '{{name}}', '\"{name}\"')::json WHERE id = {id};
             COMMIT"
        ),
    );
}

#[test]
fn readers_are_served_while_postgres_is_frozen() {
    let scene = Scene::set();
    scene.postgres.freeze();
    scene.check_outage();
    scene.postgres.thaw();
    scene.check_return();
}

#[test]
fn readers_are_served_while_postgres_is_dead() {
    let mut scene = Scene::set();
    scene.postgres.kill();
    scene.check_outage();
    scene.postgres.start_again();
    scene.check_return();
}

#[test]
fn a_change_whose_notification_was_lost_is_live_soon() {
    let app = TestApp::start();
    let campaign = create(&app.admin(), json!({"name": "first", "status": "active"}));
    let client = app.client();
    assert_eq!(fetched(&client, "ada"), ["first"]);
    // The revisions are compared twice a second.
    let bound = Duration::from_millis(if is_soak() { 1_000 } else { 10_000 });
    let (mut sql, mut slowest) = (app.sql(), Duration::ZERO);
    for round in 0..if is_soak() { 100 } else { 5 } {
        let name = format!("round {round}");
        change_quietly(&mut sql, &campaign, &name);
        let started = Instant::now();
        eventually(&name, bound, || {
            (fetched(&client, "ada") == [name.as_str()]).then_some(())
        });
        slowest = slowest.max(started.elapsed());
    }
    println!("the slowest change was live after {slowest:?}");
}

/// However many changes of one project wait for each other, the connections of the others are theirs.
#[test]
fn changes_that_wait_for_each_other_leave_connections_to_the_others() {
    let app = TestApp::start();
    let mut lock = app.sql();
    sql::run(&mut lock, "BEGIN; SELECT FROM project_revisions FOR UPDATE");
    let saves: Vec<_> = (0..16)
        .map(|n| {
            let admin = app.admin();
            let campaign = for_payers(&format!("c{n}"));
            thread::spawn(move || admin.post("/v1/admin/campaigns", &campaign).status)
        })
        .collect();
    pause(Duration::from_millis(500));
    for n in 0..5 {
        let began = Instant::now();
        // Somebody who has to be looked up, and a probe that asks the database.
        let path = format!("/v1/campaigns?user_id=unknown{n}");
        app.client().get(&path).expect(200);
        app.client().get("/readyz").expect(200);
        assert!(
            began.elapsed() < Duration::from_millis(1_000),
            "{:?}",
            began.elapsed()
        );
    }
    sql::run(&mut lock, "COMMIT");
    let saved: Vec<u16> = saves.into_iter().map(|save| save.join().unwrap()).collect();
    assert!(
        saved.iter().all(|status| matches!(status, 201 | 503)),
        "{saved:?}"
    );
    assert!(saved.contains(&201), "{saved:?}");
}
