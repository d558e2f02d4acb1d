//! Postgres over TLS, when the URL asks for it.
//!
//! The key and certificates in `tests/fixtures/tls` were made for this test and protect nothing.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use beckon::embedded_pg::{EmbeddedOptions, EmbeddedPostgres, find_binaries};
use diesel::{Connection, PgConnection, RunQueryDsl, sql_query};
use serde_json::json;

use crate::support::app::{CLIENT_KEY, Launch, Server};
use crate::support::postgres::{Watchdog, guarded_folder};
use crate::support::{Client, eventually, sql};

/// A Postgres that takes nothing but TLS with a password, on a port of its own.
struct TlsServer {
    process: Child,
    port: u16,
    // Dropped last: it removes the folder.
    _watchdog: Watchdog,
}

impl TlsServer {
    fn start() -> Self {
        let (folder, watchdog) = guarded_folder();
        let cluster = folder.join("postgres");
        let private = EmbeddedPostgres::start(&EmbeddedOptions::new(&folder)).unwrap();
        private.create_database("beckon").unwrap();
        let mut connection = PgConnection::establish(&private.url("beckon")).unwrap();
        sql_query("ALTER ROLE beckon PASSWORD 'over-the-wire'")
            .execute(&mut connection)
            .unwrap();
        drop(connection);
        private.stop().unwrap();

        let owner = fs::metadata(&cluster).unwrap();
        let place = |name: &str, text: &[u8]| -> PathBuf {
            let path = cluster.join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            chown(&path, Some(owner.uid()), Some(owner.gid())).unwrap();
            path
        };
        let certificate = place("tls.crt", &fs::read(fixture("server.crt")).unwrap());
        let key = place("tls.key", &fs::read(fixture("server.key")).unwrap());
        let rules = place(
            "tls_hba.conf",
            b"hostssl all all 127.0.0.1/32 scram-sha-256\n",
        );
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|free| free.local_addr())
            .unwrap()
            .port();
        let bin = find_binaries().unwrap().bin_dir;
        let setting = |name: &str, value: &Path| format!("{name}={}", value.display());
        let mut command = Command::new(bin.join("postgres"));
        command
            .arg("-D")
            .arg(&cluster)
            .args(["-c", "listen_addresses=127.0.0.1", "-c", "ssl=on"])
            .args(["-c", "unix_socket_directories="])
            .args(["-c", &format!("port={port}")])
            .args(["-c", &setting("ssl_cert_file", &certificate)])
            .args(["-c", &setting("ssl_key_file", &key)])
            .args(["-c", &setting("hba_file", &rules)])
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if rustix::process::geteuid().is_root() {
            command.uid(owner.uid()).gid(owner.gid());
        }
        let server = Self {
            process: command.spawn().unwrap(),
            port,
            _watchdog: watchdog,
        };
        eventually("the server takes TLS", Duration::from_secs(20), || {
            PgConnection::establish(&server.url("sslmode=require")).ok()
        });
        server
    }

    fn url(&self, options: &str) -> String {
        let port = self.port;
        format!("postgresql://beckon:over-the-wire@127.0.0.1:{port}/beckon?{options}")
    }
}

impl Drop for TlsServer {
    fn drop(&mut self) {
        // What SIGKILL leaves of its children ends by itself when the postmaster is gone.
        if self
            .process
            .kill()
            .and_then(|()| self.process.wait())
            .is_err()
        {
            eprintln!("the test's PostgreSQL could not be ended");
        }
    }
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/tls")
        .join(name)
}

#[test]
fn postgres_is_spoken_to_over_tls_when_the_url_asks_for_it() {
    let postgres = TlsServer::start();
    let trusted = format!(
        "sslmode=verify-full&sslrootcert={}",
        fixture("server.crt").display()
    );
    let server = Server::start(&Launch::new(&postgres.url(&trusted)));
    server.wait_until_ready();
    let client = Client::new(server.base()).key(CLIENT_KEY);
    let body = json!({"user_id": "u", "event": "over_tls"});
    client.post("/v1/track", &body).expect(200);

    let mut connection = PgConnection::establish(&postgres.url(&trusted)).unwrap();
    let plain = "SELECT count(*) FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid) \
         WHERE a.application_name = 'beckon' AND NOT s.ssl";
    assert_eq!(sql::number(&mut connection, plain), 0);
    let secure = "SELECT count(*) FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid) \
         WHERE a.application_name = 'beckon' AND s.ssl";
    assert!(sql::number(&mut connection, secure) > 0);
}

/// A server that shows another certificate than the one that is trusted is not spoken to.
#[test]
fn a_certificate_that_is_not_trusted_is_refused() {
    let postgres = TlsServer::start();
    let distrusting = format!(
        "sslmode=verify-full&sslrootcert={}",
        fixture("other.crt").display()
    );
    for options in [distrusting.as_str(), "sslmode=disable"] {
        let server = Server::start(&Launch::new(&postgres.url(options)));
        let client = Client::new(server.base()).key(CLIENT_KEY);
        let ready = client.get("/readyz");
        assert_eq!(ready.status, 503, "{options}: {}", server.log());
        let body = json!({"user_id": "u", "event": "e"});
        assert_eq!(client.post("/v1/track", &body).status, 503, "{options}");
    }
}
