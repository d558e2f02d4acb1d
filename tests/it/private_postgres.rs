//! The private Postgres of a running server.

use std::fs;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::support::app::{ADMIN_KEY, CLIENT_KEY, Launch, Server};
use crate::support::postgres::guarded_folder;
use crate::support::{Client, eventually};

/// A private Postgres that dies under the server is started again, with all it had acknowledged.
#[test]
fn a_private_postgres_that_dies_is_started_again() {
    let (folder, _watchdog) = guarded_folder();
    let launch = Launch::new("")
        .unset("DATABASE_URL")
        .set("BECKON_DATA_DIR", folder.to_str().unwrap());
    let mut server = Server::start(&launch);
    server.wait_until_ready();
    let client = Client::new(server.base()).key(CLIENT_KEY);
    let track = |event: &str| client.post("/v1/track", &json!({"user_id": "u", "event": event}));
    track("before").expect(200);

    let pid_file = fs::read_to_string(folder.join("postgres/postmaster.pid")).unwrap();
    let pid: i32 = pid_file.lines().next().unwrap().parse().unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();

    eventually("events are stored again", Duration::from_secs(30), || {
        (track("after").status == 200).then_some(())
    });
    let admin = Client::new(server.base()).key(ADMIN_KEY);
    // Other connections of the server may still be those to the one that died.
    let before = eventually("events are read again", Duration::from_secs(30), || {
        let answer = admin.get("/v1/admin/events?event=before");
        (answer.status == 200).then(|| answer.expect(200))
    });
    assert_eq!(before["total"], 1, "{before}");
    server.terminate();
    let status = server.wait(Duration::from_secs(10)).unwrap();
    assert!(status.success(), "{}", server.log());
}
