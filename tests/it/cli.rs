//! The command line as scripts use it: exit codes, what goes to which output, and the life of a
//! server process.

use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::support::app::{Launch, Server};
use super::support::postgres::{
    TestDatabase, database, empty_database, guarded_folder, postgres_server_in,
};
use super::support::{ADMIN_KEY, CLIENT_KEY, Client, eventually, sql};

fn run(database: &TestDatabase, arguments: &[&str]) -> Output {
    Launch::new(&database.url)
        .command(arguments)
        .output()
        .unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn json_of(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
}

#[test]
fn a_wrong_command_line_is_exit_code_two_and_help_is_zero() {
    let database = empty_database();
    for wrong in [
        &["nonsense"][..],
        &["serve", "--no-such-flag"][..],
        &["import"][..],
        &[][..],
    ] {
        let output = run(&database, wrong);
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
        assert!(output.stdout.is_empty(), "{wrong:?}");
    }
    for help in [
        "serve",
        "demo",
        "migrate",
        "import",
        "keys",
        "rejected",
        "ledger",
        "explain",
        "replay",
        "retention",
        "config",
        "doctor",
    ] {
        let output = run(&database, &[help, "--help"]);
        assert_eq!(output.status.code(), Some(0), "{help}");
    }
}

#[test]
fn migrations_go_up_down_and_up_and_commands_ask_for_them() {
    let database = empty_database();
    let status = run(&database, &["migrate", "status", "--json"]);
    assert_eq!(status.status.code(), Some(1), "something is pending");
    let pending = json_of(&status)["pending"].as_array().unwrap().len();
    assert!(pending >= 3);
    let keys = run(&database, &["keys", "list"]);
    assert_eq!(keys.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&keys.stderr).contains("migrate up"));
    assert_eq!(
        json_of(&run(&database, &["migrate", "--json"]))["ran"]
            .as_array()
            .unwrap()
            .len(),
        pending
    );
    assert_eq!(
        run(&database, &["migrate", "status"]).status.code(),
        Some(0)
    );
    assert_eq!(
        run(&database, &["migrate", "down"]).status.code(),
        Some(2),
        "it needs --yes"
    );
    let down = run(&database, &["migrate", "down", "--yes", "--json"]);
    assert_eq!(json_of(&down)["undone"].as_array().unwrap().len(), 1);
    assert_eq!(run(&database, &["migrate"]).status.code(), Some(0));
}

#[test]
fn keys_are_shown_once_listed_by_their_beginning_and_revoked() {
    let database = database();
    let created = run(
        &database,
        &["keys", "create", "--scope", "admin", "--name", "a\tb"],
    );
    let key = out(&created).trim().to_owned();
    assert!(
        key.starts_with("bk_admin_") && !key.contains('\n'),
        "only the key: {key:?}"
    );
    let listed = run(&database, &["keys", "list", "--json"]);
    assert!(!out(&listed).contains(&key));
    let listed = json_of(&listed);
    assert!(key.starts_with(listed[0]["prefix"].as_str().unwrap()));
    let id = listed[0]["id"].to_string();
    assert_eq!(
        run(&database, &["keys", "revoke", &id]).status.code(),
        Some(0)
    );
    assert_eq!(
        run(&database, &["keys", "revoke", &id]).status.code(),
        Some(1),
        "no such key now"
    );
    let elsewhere = run(&database, &["keys", "list", "--project", "absent"]);
    assert_eq!(elsewhere.status.code(), Some(1));
    let mut connection = database.connect();
    let audited = sql::rows(
        &mut connection,
        "SELECT actor, action, object_kind FROM audit_log ORDER BY id",
    );
    assert_eq!(
        audited,
        [
            json!({"actor": "cli", "action": "create", "object_kind": "key"}),
            json!({"actor": "cli", "action": "revoke", "object_kind": "key"}),
        ]
    );
    let dump = "SELECT string_agg(api_keys::text, '') AS value FROM api_keys";
    assert!(!sql::texts(&mut connection, dump)[0].contains(&key[15..]));
}

#[test]
fn doctor_advises_a_postgres_that_writes_much_and_has_little_memory() {
    let (folder, watchdog) = guarded_folder();
    let usual = database();
    let settings = [("max_wal_size", "1GB"), ("shared_buffers", "1MB")];
    let poor = postgres_server_in(&folder, watchdog, &settings);
    for (url, verdict, wal, buffers) in [
        (poor.url(), "warn", "1GB", "1MB for"),
        (usual.url.clone(), "ok", "GB", "B for"),
    ] {
        let asked = Launch::new(&url).command(&["doctor", "--json"]).output();
        let checks = json_of(&asked.unwrap());
        for (name, found) in [("max_wal_size", wal), ("shared_buffers", buffers)] {
            let mut checks = checks.as_array().unwrap().iter();
            let check = checks.find(|check| check["name"] == name).unwrap();
            assert_eq!(check["verdict"], verdict, "{check}");
            assert!(check["found"].as_str().unwrap().contains(found), "{check}");
        }
    }
}

#[test]
fn doctor_warns_of_retention_that_has_not_run_when_it_was_due() {
    let database = database();
    let mut connection = database.connect();
    let mut verdict = |last: &str| {
        let note = format!(
            "DELETE FROM job_runs; INSERT INTO job_runs SELECT 'retention', t, t \
             FROM (SELECT {last}) AS last (t) WHERE t IS NOT NULL"
        );
        sql::run(&mut connection, &note);
        let checks = json_of(&run(&database, &["doctor", "--json"]));
        let all = checks.as_array().unwrap();
        let check = all.iter().find(|check| check["name"] == "retention");
        check.unwrap()["verdict"].as_str().unwrap().to_owned()
    };
    assert_eq!(verdict("NULL::timestamptz"), "warn");
    assert_eq!(verdict("now()"), "ok");
    // By default it runs every day.
    assert_eq!(verdict("now() - interval '3 days'"), "warn");
}

#[test]
fn doctor_says_what_is_wrong_and_what_to_do() {
    let database = database();
    let healthy = run(&database, &["doctor", "--json"]);
    assert_eq!(healthy.status.code(), Some(0), "{healthy:?}");
    let checks = json_of(&healthy);
    let disk = checks
        .as_array()
        .unwrap()
        .iter()
        .find(|check| check["name"] == "disk");
    let found = disk.unwrap()["found"].as_str().unwrap();
    assert!(
        found.contains("not known"),
        "that of the database counts: {found}"
    );
    let mut connection = database.connect();
    for partition in sql::texts(
        &mut connection,
        "SELECT inhrelid::regclass::text AS value FROM pg_inherits WHERE inhparent = 'events'::regclass",
    ) {
        sql::run(&mut connection, &format!("DROP TABLE {partition}"));
    }
    let sick = run(&database, &["doctor", "--json"]);
    assert_eq!(sick.status.code(), Some(1));
    let checks = json_of(&sick);
    let partitions = checks
        .as_array()
        .unwrap()
        .iter()
        .find(|check| check["name"] == "partitions")
        .unwrap();
    assert_eq!(partitions["verdict"], "fail");
    assert!(
        partitions["advice"]
            .as_str()
            .unwrap()
            .contains("beckon retention run")
    );
    sql::run(
        &mut connection,
        "INSERT INTO __diesel_schema_migrations VALUES ('99990101000000')",
    );
    let newer = run(&database, &["doctor"]);
    assert_eq!(newer.status.code(), Some(1));
    assert!(
        out(&newer).contains("newer than this binary"),
        "{}",
        out(&newer)
    );
    let absent = "postgresql://127.0.0.1:1/x";
    let unreachable = Launch::new(absent)
        .command(&["doctor", "--json"])
        .output()
        .unwrap();
    assert_eq!(unreachable.status.code(), Some(1));
    assert!(
        json_of(&unreachable)
            .as_array()
            .unwrap()
            .iter()
            .any(|c| c["name"] == "database" && c["verdict"] == "fail")
    );
}

#[test]
fn retention_and_import_speak_json_and_import_has_an_exit_code_of_its_own() {
    let database = database();
    let retention = run(&database, &["retention", "run", "--dry-run", "--json"]);
    assert_eq!(json_of(&retention)["dry_run"], true);
    let file = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/fixtures/import/data.json"
    );
    let imported = run(&database, &["import", file, "--json"]);
    assert_eq!(imported.status.code(), Some(0), "{imported:?}");
    assert_eq!(json_of(&imported)["tallies"]["events"]["created"], 4);
    let text = run(&database, &["import", file]);
    assert!(
        out(&text).contains("skipped /users/list (id list)"),
        "{}",
        out(&text)
    );
    // What is done is told even if it cannot be written down.
    let text = run(&database, &["import", file, "--report", "/no/such/folder"]);
    assert_eq!(text.status.code(), Some(1));
    assert!(out(&text).contains("verified events"), "{}", out(&text));
    let folder = tempfile::tempdir().unwrap();
    let kept = folder.path().join("rollback.json");
    let kept_name = kept.to_str().unwrap();
    let arguments = ["import", "--rollback", "1", "--json", "--report", kept_name];
    let undone = run(&database, &arguments);
    assert_eq!(json_of(&undone)["events"], 4);
    let kept: Value = serde_json::from_slice(&std::fs::read(&kept).unwrap()).unwrap();
    assert_eq!(kept, json_of(&undone));
    let unknown: serde_json::Map<String, Value> = (0..25)
        .map(|n| (format!("more{n}"), json!({})))
        .chain([("events".to_owned(), json!([]))])
        .collect();
    let odd = folder.path().join("odd.json");
    std::fs::write(&odd, Value::Object(unknown).to_string()).unwrap();
    let text = out(&run(&database, &["import", odd.to_str().unwrap()]));
    assert!(text.contains("… and 5 more"), "{text}");
    let mut connection = database.connect();
    sql::run(
        &mut connection,
        "CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS \
           $$ BEGIN NEW.properties = '{}'; RETURN NEW; END $$; \
         CREATE TRIGGER lose BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION lose()",
    );
    let bad = run(&database, &["import", file]);
    assert_eq!(bad.status.code(), Some(3));
    assert!(out(&bad).contains("NOT VERIFIED events"), "{}", out(&bad));
}

#[test]
fn serve_refuses_a_newer_schema_and_a_port_that_is_taken() {
    let database = database();
    let server = Server::start(&Launch::new(&database.url));
    let taken = server.address().to_string();
    let second = Launch::new(&database.url)
        .set("BECKON_LISTEN", &taken)
        .command(&["serve"])
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&second.stderr).contains(&taken));
    drop(server);
    let mut connection = database.connect();
    sql::run(
        &mut connection,
        "INSERT INTO __diesel_schema_migrations VALUES ('99990101000000')",
    );
    let newer = run(&database, &["serve"]);
    assert_eq!(newer.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&newer.stderr).contains("newer than this binary"));
}

#[test]
fn serve_ends_in_good_time_with_a_call_that_never_ends() {
    let database = database();
    let mut server = Server::start(&Launch::new(&database.url));
    // A body that is announced and never sent.
    let mut stalled = std::net::TcpStream::connect(server.address()).unwrap();
    std::io::Write::write_all(
        &mut stalled,
        format!("POST /v1/track HTTP/1.1\r\nhost: x\r\nx-api-key: {CLIENT_KEY}\r\ncontent-length: 10\r\n\r\n{{").as_bytes(),
    )
    .unwrap();
    let started = Instant::now();
    server.terminate();
    let status = server.wait(Duration::from_secs(12)).unwrap();
    assert_eq!(status.code(), Some(0), "{}", server.log());
    assert!(
        started.elapsed() < Duration::from_secs(10),
        "{:?}",
        started.elapsed()
    );
}

/// A demo of a test's own, stopped when dropped.
struct Demo {
    process: std::process::Child,
    lines: Vec<String>,
    base: String,
}

impl Demo {
    fn start(folder: &std::path::Path) -> Self {
        let mut process = Launch::new("postgresql://127.0.0.1:1/ignored")
            .set("BECKON_DATA_DIR", folder.to_str().unwrap())
            .unset("BECKON_ADMIN_KEY")
            .unset("BECKON_CLIENT_KEY")
            .command(&["demo"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = Vec::new();
        for line in BufReader::new(process.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            let is_last = line.contains("Stop with Ctrl-C");
            lines.push(line);
            if is_last {
                break;
            }
        }
        let base = lines
            .iter()
            .find_map(|line| line.strip_prefix("listening on "))
            .unwrap_or_else(|| panic!("{lines:?}"))
            .to_owned();
        Self {
            process,
            lines,
            base,
        }
    }

    fn key(&self, scope: &str) -> Option<&str> {
        self.lines
            .iter()
            .find_map(|line| line.strip_prefix(&format!("  {scope}")))
            .map(str::trim)
    }

    /// Runs the curl lines it printed, in a shell, and gives their answers.
    fn curl_answers(&self) -> Vec<Value> {
        let text = self.lines.join("\n");
        let mut answers = Vec::new();
        for start in text.match_indices("  curl ").map(|(at, _)| at) {
            let line = &text[start..];
            let mut end = line.find('\n').unwrap_or(line.len());
            if line[..end].ends_with('\\') {
                end += 1 + line[end + 1..].find('\n').unwrap();
            }
            let output = Command::new("sh")
                .args(["-c", &line[..end]])
                .output()
                .unwrap();
            answers.push(
                serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}")),
            );
        }
        answers
    }

    fn stop(mut self) -> Option<i32> {
        let pid = rustix::process::Pid::from_raw(self.process.id().try_into().unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        eventually("the demo to end", Duration::from_secs(10), || {
            self.process.try_wait().unwrap()
        })
        .code()
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ended_already = self.process.kill();
        let _ended_already = self.process.wait();
    }
}

/// Of the server at the address of the settings, the doctor tells how much waits there.
#[test]
fn doctor_asks_the_running_server_for_its_queue() {
    let database = database();
    let server = Server::start(&Launch::new(&database.url));
    server.wait_until_ready();
    let queue_at = |listen: &str| {
        let examined = Launch::new(&database.url)
            .set("BECKON_LISTEN", listen)
            .command(&["doctor", "--json"])
            .output()
            .unwrap();
        let checks = json_of(&examined);
        let mut checks = checks.as_array().unwrap().iter();
        checks.find(|check| check["name"] == "queue").unwrap()["found"].to_string()
    };
    let found = queue_at(&server.address().to_string());
    assert!(found.contains("0 of at most"), "{found}");
    let found = queue_at("127.0.0.1:1");
    assert!(found.contains("no server answers"), "{found}");
    let frozen = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let found = queue_at(&frozen.local_addr().unwrap().to_string());
    assert!(found.contains("does not answer"), "{found}");
}

#[test]
fn the_demo_can_be_tried_at_once_and_shows_its_keys_once() {
    let (folder, _watchdog) = guarded_folder();
    let demo = Demo::start(&folder);
    let answers = demo.curl_answers();
    assert_eq!(answers.len(), 5, "{:?}", demo.lines);
    assert_eq!(
        answers[0]["matched"][0]["name"],
        "Free delivery for pro users"
    );
    assert_eq!(answers[3]["matched"][0]["id"], answers[2]["id"]);
    assert_eq!(answers[4]["events"][0]["event"], "app_opened");
    let admin = Client::new(&demo.base).key(demo.key("admin").unwrap());
    admin
        .delete("/v1/admin/campaigns/0d8f1c52-6c1e-4d0b-9a57-5b1f5f6c0a02")
        .expect(200);
    // A command shares the private Postgres of the demo that runs.
    let data_dir = folder.to_str().unwrap().to_owned();
    let listed = Launch::new("")
        .set("BECKON_DATA_DIR", &data_dir)
        .unset("DATABASE_URL")
        .command(&["keys", "list", "--json"])
        .output()
        .unwrap();
    assert_eq!(json_of(&listed).as_array().unwrap().len(), 2, "{listed:?}");
    assert_eq!(demo.stop(), Some(0));
    let again = Demo::start(&folder);
    assert!(again.key("admin").is_none(), "{:?}", again.lines);
    let admin = Client::new(&again.base).key(admin_key_of(&data_dir).trim());
    let campaigns = admin.get("/v1/admin/campaigns").expect(200);
    assert_eq!(campaigns["total"], 3, "what was deleted does not come back");
    assert_eq!(again.stop(), Some(0));
}

fn admin_key_of(data_dir: &str) -> String {
    let created = Launch::new("")
        .set("BECKON_DATA_DIR", data_dir)
        .unset("DATABASE_URL")
        .command(&["keys", "create", "--scope", "admin"])
        .output()
        .unwrap();
    out(&created)
}

#[test]
fn the_keys_of_the_settings_are_created_once() {
    let database = database();
    for _ in 0..2 {
        let server = Server::start(&Launch::new(&database.url));
        Client::new(server.base())
            .key(ADMIN_KEY)
            .get("/v1/admin/keys")
            .expect(200);
    }
    let mut connection = database.connect();
    assert_eq!(
        sql::number(&mut connection, "SELECT count(*) FROM api_keys"),
        2
    );
}

/// What comes at once while nobody is accepted waits, rather than to be told to knock again.
#[test]
fn hundreds_of_connections_may_wait_to_be_accepted() {
    let database = database();
    let full = Launch::new(&database.url).set("BECKON_CONNECTIONS_MAX", "2");
    let server = Server::start(&full);
    let connect =
        |_| std::net::TcpStream::connect_timeout(&server.address(), Duration::from_millis(900));
    let waiting: Result<Vec<_>, _> = (0..400).map(connect).collect();
    assert!(waiting.is_ok(), "{waiting:?}");
}
