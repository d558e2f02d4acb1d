//! A proxy that loses answers: the server has said it, and the client hears a closed connection.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

/// Stands before a server until it is dropped.
#[derive(Debug)]
pub struct LossyProxy {
    address: SocketAddr,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    server: SocketAddr,
    every: u64,
    answers: AtomicU64,
    dropped: AtomicU64,
    ends: AtomicBool,
}

impl LossyProxy {
    /// Loses every so many-th answer of this server.
    pub fn before(server: SocketAddr, every: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            server,
            every,
            answers: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            ends: AtomicBool::new(false),
        });
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if shared.ends.load(Ordering::Relaxed) {
                    return;
                }
                let shared = Arc::clone(&shared);
                thread::spawn(move || shared.relay(client));
            }
        });
        Self { address, state }
    }

    /// Where it listens, as `http://127.0.0.1:PORT`.
    pub fn base(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How many answers it has lost.
    pub fn dropped(&self) -> u64 {
        self.state.dropped.load(Ordering::Relaxed)
    }
}

impl Drop for LossyProxy {
    fn drop(&mut self) {
        self.state.ends.store(true, Ordering::Relaxed);
        // It waits for a connection; this one ends that.
        let _woken = TcpStream::connect(self.address);
    }
}

impl State {
    fn relay(&self, client: TcpStream) {
        let Ok(server) = TcpStream::connect(self.server) else {
            return;
        };
        let (mut from_client, mut to_server) =
            (client.try_clone().unwrap(), server.try_clone().unwrap());
        thread::spawn(move || {
            // Either side may be gone at any time; then the whole connection is.
            let _ended = std::io::copy(&mut from_client, &mut to_server);
            let _gone_already = to_server.shutdown(Shutdown::Both);
        });
        self.answer(&client, server);
        let _gone_already = client.shutdown(Shutdown::Both);
    }

    /// Passes answers on; small ones come in one piece.
    fn answer(&self, mut client: &TcpStream, mut server: TcpStream) {
        let mut piece = [0_u8; 64 * 1024];
        while let Ok(length @ 1..) = server.read(&mut piece) {
            let piece = &piece[..length];
            if piece.starts_with(b"HTTP/1.1 200") {
                let number = self.answers.fetch_add(1, Ordering::Relaxed) + 1;
                if number.is_multiple_of(self.every) {
                    self.dropped.fetch_add(1, Ordering::Relaxed);
                    break;
                }
            }
            if client.write_all(piece).is_err() {
                break;
            }
        }
        let _gone_already = server.shutdown(Shutdown::Both);
    }
}
