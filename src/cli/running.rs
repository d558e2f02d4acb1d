//! Asks the server that runs with these settings how it does.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

use serde_json::Value;

/// How long each step may take; the answer itself comes within the database's deadline.
const STEP: Duration = Duration::from_secs(3);

/// The most bytes of an answer that are read.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// What a server said of itself.
#[derive(Debug)]
pub(super) enum Server {
    /// The settings leave the port open, so nobody can tell where it listens.
    Unknown,
    /// Nothing listens there.
    Absent(SocketAddr),
    /// Something listens there but does not answer as a server does.
    Mute(String),
    /// It answers that it cannot do its work; the text names the check that failed.
    NotReady(String),
    /// It can do its work.
    Ready {
        /// How many events the fullest shard holds.
        queued_events: u64,
        /// How many it may hold.
        queued_events_max: u64,
    },
}

/// Asks the server at the address of the settings.
pub(super) fn ask(listen: &str) -> Server {
    let Some(mut address) = listen
        .to_socket_addrs()
        .ok()
        .and_then(|mut found| found.next())
    else {
        return Server::Unknown;
    };
    if address.port() == 0 {
        return Server::Unknown;
    }
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    match get_ready(address) {
        Ok((200, body)) => {
            let number = |name: &str| body[name].as_u64();
            match (number("queued_events"), number("queued_events_max")) {
                (Some(queued_events), Some(queued_events_max)) => Server::Ready {
                    queued_events,
                    queued_events_max,
                },
                _ => Server::Mute(format!("what answers at {address} is no beckon")),
            }
        }
        Ok((status, body)) => {
            let failed = body["failed"].as_str();
            Server::NotReady(failed.map_or_else(|| format!("status {status}"), str::to_owned))
        }
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Server::Absent(address),
        Err(error) => Server::Mute(format!("the server at {address} does not answer: {error}")),
    }
}

/// The status and body of `GET /readyz`.
fn get_ready(address: SocketAddr) -> std::io::Result<(u16, Value)> {
    let mut stream = TcpStream::connect_timeout(&address, STEP)?;
    stream.set_read_timeout(Some(STEP))?;
    stream.set_write_timeout(Some(STEP))?;
    // HTTP/1.0 asks for an answer in one piece that ends with the connection.
    write!(stream, "GET /readyz HTTP/1.0\r\nhost: {address}\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head
        .split_whitespace()
        .nth(1)
        .and_then(|word| word.parse().ok());
    Ok((
        status.unwrap_or_default(),
        serde_json::from_str(body).unwrap_or(Value::Null),
    ))
}
