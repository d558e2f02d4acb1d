//! A way to Postgres that can be cut at a moment that matters: when a message with a certain text
//! goes to the server, or when its answer comes back.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread;

use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::Text;

/// What a message with a text sets off, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// The message does not arrive.
    Request,
    /// The message arrives and is answered, but the answer does not come back.
    Answer,
}

#[derive(Debug)]
struct Trap {
    text: Vec<u8>,
    cut: Cut,
}

/// A socket before a database's.
#[derive(Debug)]
pub struct SeverablePostgres {
    /// The database through it.
    pub url: String,
    trap: Arc<Mutex<Option<Trap>>>,
    _folder: tempfile::TempDir,
}

#[derive(QueryableByName)]
struct Place {
    #[diesel(sql_type = Text)]
    socket: String,
    #[diesel(sql_type = Text)]
    name: String,
    #[diesel(sql_type = Text)]
    url: String,
}

impl SeverablePostgres {
    /// Opens a socket before the one of this database.
    pub fn before(connection: &mut PgConnection) -> Self {
        let place: Place = sql_query(
            "SELECT trim(BOTH '\"' FROM current_setting('unix_socket_directories')) \
                 || '/.s.PGSQL.' || current_setting('port') AS socket, \
             '.s.PGSQL.' || current_setting('port') AS name, \
             'postgres://' || current_user || '@/' || current_database() \
                 || '?port=' || current_setting('port') || '&host=' AS url",
        )
        .get_result(connection)
        .unwrap();
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join(&place.name)).unwrap();
        let trap: Arc<Mutex<Option<Trap>>> = Arc::default();
        let (armed, socket) = (Arc::clone(&trap), PathBuf::from(&place.socket));
        // It ends with the process; a listener cannot be told to stop.
        thread::spawn(move || {
            for client in listener.incoming() {
                let Ok(client) = client else { continue };
                let server = UnixStream::connect(&socket)
                    .unwrap_or_else(|error| panic!("no Postgres at {}: {error}", socket.display()));
                let armed = Arc::clone(&armed);
                thread::spawn(move || carry(client, server, &armed));
            }
        });
        Self {
            url: format!("{}{}", place.url, folder.path().display()),
            trap,
            _folder: folder,
        }
    }

    /// Cuts the connection on which the next message with this text goes.
    pub fn cut(&self, text: &str, cut: Cut) {
        let text = text.as_bytes().to_vec();
        *self.trap.lock().unwrap() = Some(Trap { text, cut });
    }

    /// Whether the last cut has been made.
    pub fn has_cut(&self) -> bool {
        self.trap.lock().unwrap().is_none()
    }
}

fn carry(mut client: UnixStream, mut server: UnixStream, armed: &Mutex<Option<Trap>>) {
    let (mut back_from, mut back_to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
    let lost: Arc<Mutex<bool>> = Arc::default();
    let answer_is_lost = Arc::clone(&lost);
    let back = thread::spawn(move || {
        let mut chunk = vec![0; 1 << 16];
        while let Ok(size @ 1..) = back_from.read(&mut chunk) {
            if *answer_is_lost.lock().unwrap() || back_to.write_all(&chunk[..size]).is_err() {
                break;
            }
        }
        let _ = back_to.shutdown(std::net::Shutdown::Both);
        let _ = back_from.shutdown(std::net::Shutdown::Both);
    });
    let mut chunk = vec![0; 1 << 16];
    while let Ok(size @ 1..) = client.read(&mut chunk) {
        let sprung = {
            let mut trap = armed.lock().unwrap();
            let is_it = trap.as_ref().is_some_and(|trap| {
                let mut windows = chunk[..size].windows(trap.text.len());
                windows.any(|window| window == trap.text)
            });
            if is_it {
                trap.take().map(|trap| trap.cut)
            } else {
                None
            }
        };
        match sprung {
            Some(Cut::Request) => break,
            Some(Cut::Answer) => *lost.lock().unwrap() = true,
            None => {}
        }
        if server.write_all(&chunk[..size]).is_err() {
            break;
        }
    }
    if !*lost.lock().unwrap() {
        let _ = server.shutdown(std::net::Shutdown::Both);
        let _ = client.shutdown(std::net::Shutdown::Both);
    }
    let _ = back.join();
}
