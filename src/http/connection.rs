//! Closes connections whose next request does not come.
//!
//! The framework has a timeout for that, but it answers 408, which SDKs retry; so it is switched
//! off and this one closes the socket without a word, with a second handle of it. A connection has
//! so long to complete the head of its first request; after an answer, or a part of a large one
//! that was taken, it has the keep-alive time more, so that a head sent byte by byte is not waited
//! for either. The parts of an answer have a bound together, too, which grows with their size.

use std::any::Any;
use std::cell::Cell;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::Extensions;
use actix_web::rt;
use actix_web::rt::net::TcpStream;
use actix_web::web::Bytes;
use tokio::sync::oneshot;
use tokio::time::timeout;

/// How long a connection may be without a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// Before the first one.
    pub(super) first: Duration,
    /// After an answer.
    pub(super) next: Duration,
}

/// What is known of a connection's requests.
#[derive(Debug)]
struct Activity {
    in_flight: Cell<u32>,
    give_up_at: Cell<Instant>,
    patience: Patience,
}

/// A connection that is watched; it lives as long as the connection does.
#[derive(Debug)]
pub(super) struct Watched {
    activity: Rc<Activity>,
    /// Nothing is ever sent: dropping it ends the watch.
    _alive: oneshot::Sender<()>,
}

impl Watched {
    /// What is known of its requests.
    pub(super) fn handle(&self) -> Handle {
        Handle(Rc::clone(&self.activity))
    }

    /// Says that a request has come; it is in flight until the value is dropped.
    pub(super) fn request(&self) -> InFlight {
        self.activity
            .in_flight
            .set(self.activity.in_flight.get() + 1);
        InFlight(Rc::clone(&self.activity))
    }
}

/// A way to say that a connection is not idle.
#[derive(Debug)]
pub(super) struct Handle(Rc<Activity>);

/// How much of a large answer is handed on at a time.
const PART_BYTES: usize = 32 * 1024;

/// How many bytes of a large answer a client must take in a second, in the long run. An answer is in
/// memory until it is taken, and who takes a part just before each deadline could hold it for days.
const TAKEN_PER_SECOND: u32 = 16 * 1024;

/// A body whose parts show that the client takes them: a connection that is busy with a large
/// answer has no request, but is not idle. A client that takes nothing is closed like any other.
pub(super) fn as_it_is_sent(body: BoxBody, connection: Option<Handle>) -> BoxBody {
    let is_small = match body.size() {
        BodySize::None => true,
        BodySize::Sized(bytes) => bytes <= PART_BYTES as u64,
        BodySize::Stream => false,
    };
    match connection {
        Some(connection) if !is_small => BoxBody::new(Sending {
            body,
            rest: Bytes::new(),
            handed: None,
            patience: connection.0.patience.next,
            connection,
        }),
        _ => body,
    }
}

struct Sending {
    body: BoxBody,
    /// Of what the body gave last.
    rest: Bytes,
    /// When a part was handed on last, until the next is asked for.
    handed: Option<Instant>,
    /// How long the client may still be waited for, all its waits together.
    patience: Duration,
    connection: Handle,
}

impl MessageBody for Sending {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        let this = self.get_mut();
        let activity = &this.connection.0;
        let now = Instant::now();
        if let Some(handed) = this.handed.take() {
            this.patience = this.patience.saturating_sub(now - handed);
        }
        activity.give_up_at.set(now + activity.patience.next);
        while this.rest.is_empty() {
            match ready!(Pin::new(&mut this.body).poll_next(context)) {
                Some(Ok(bytes)) => this.rest = bytes,
                end => return Poll::Ready(end),
            }
        }
        let part = this.rest.split_to(this.rest.len().min(PART_BYTES));
        // The time in which the body made it is not the client's.
        let now = Instant::now();
        this.handed = Some(now);
        let bytes = u32::try_from(part.len()).unwrap_or(u32::MAX);
        this.patience += Duration::from_secs(1) * bytes / TAKEN_PER_SECOND;
        let wait = this.patience.min(activity.patience.next);
        activity.give_up_at.set(now + wait);
        Poll::Ready(Some(Ok(part)))
    }
}

/// A request in flight.
#[derive(Debug)]
pub(super) struct InFlight(Rc<Activity>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0
            .in_flight
            .set(self.0.in_flight.get().saturating_sub(1));
        self.0.give_up_at.set(Instant::now() + self.0.patience.next);
    }
}

/// Starts the watch of a new connection.
pub(super) fn watch(connection: &dyn Any, extensions: &mut Extensions, patience: Patience) {
    let Some(stream) = connection.downcast_ref::<TcpStream>() else {
        return;
    };
    let socket = match stream.as_fd().try_clone_to_owned() {
        Ok(handle) => std::net::TcpStream::from(handle),
        Err(error) => {
            tracing::warn!(error = %error, "a connection is not watched for slow requests");
            return;
        }
    };
    let activity = Rc::new(Activity {
        in_flight: Cell::new(0),
        give_up_at: Cell::new(Instant::now() + patience.first),
        patience,
    });
    let (alive, mut gone) = oneshot::channel::<()>();
    extensions.insert(Watched {
        activity: Rc::clone(&activity),
        _alive: alive,
    });
    rt::spawn(async move {
        loop {
            let wait = if activity.in_flight.get() > 0 {
                patience.next
            } else {
                activity
                    .give_up_at
                    .get()
                    .saturating_duration_since(Instant::now())
            };
            if timeout(wait, &mut gone).await.is_ok() {
                return;
            }
            if activity.in_flight.get() == 0 && activity.give_up_at.get() <= Instant::now() {
                break;
            }
        }
        if let Err(error) = socket.shutdown(Shutdown::Both) {
            tracing::debug!(error = %error, "a slow connection was closed by its client first");
        }
    });
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]
    use std::io::{Read as _, Write as _};
    use std::time::Instant;

    use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};

    use super::*;

    const HEAD_TIMEOUT: Duration = Duration::from_millis(300);
    const PATIENCE: Patience = Patience {
        first: HEAD_TIMEOUT,
        next: Duration::from_millis(1_500),
    };

    async fn received_after(parts: &'static [&'static [u8]]) -> (String, Duration) {
        let server = HttpServer::new(|| {
            App::new().default_service(web::to(|request: HttpRequest| async move {
                let _in_flight = request.conn_data::<Watched>().unwrap().request();
                HttpResponse::Ok().body("fine")
            }))
        })
        .on_connect(|connection, extensions| watch(connection, extensions, PATIENCE))
        .client_request_timeout(Duration::ZERO)
        .keep_alive(Duration::from_secs(1))
        .workers(1)
        .disable_signals()
        .bind("127.0.0.1:0")
        .unwrap();
        let address = server.addrs()[0];
        let server = server.run();
        let handle = server.handle();
        rt::spawn(server);
        let received = rt::task::spawn_blocking(move || {
            let started = Instant::now();
            let mut socket = std::net::TcpStream::connect(address).unwrap();
            let mut text = String::new();
            for part in parts {
                socket.write_all(part).unwrap();
                // Long enough for what was sent to be answered, if it can be.
                let answered = Some(Duration::from_millis(100));
                socket.set_read_timeout(answered).unwrap();
                let mut buffer = [0; 1_024];
                if let Ok(count) = socket.read(&mut buffer) {
                    text.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
                }
            }
            let bound = Some(Duration::from_secs(10));
            socket.set_read_timeout(bound).unwrap();
            // A reset is as good as an end.
            let _ended = socket.read_to_string(&mut text);
            (text, started.elapsed())
        });
        let received = received.await.unwrap();
        handle.stop(false).await;
        received
    }

    /// What a client gets of four megabytes that takes so much at a time, with pauses.
    #[expect(
        clippy::disallowed_methods,
        reason = "the client has a thread that may block"
    )]
    async fn taken(part: usize, pause: Duration) -> usize {
        const ANSWER: usize = 4 << 20;
        let server = HttpServer::new(|| {
            App::new().default_service(web::to(|request: HttpRequest| async move {
                let handle = request.conn_data::<Watched>().map(Watched::handle);
                let body = BoxBody::new(vec![b'x'; ANSWER]);
                HttpResponse::Ok().body(as_it_is_sent(body, handle))
            }))
        })
        .on_connect(|connection, extensions| watch(connection, extensions, PATIENCE))
        .client_request_timeout(Duration::ZERO)
        .keep_alive(Duration::from_secs(1))
        .workers(1)
        .bind("127.0.0.1:0")
        .unwrap();
        let address = *server.addrs().first().unwrap();
        let server = server.run();
        let handle = server.handle();
        rt::spawn(server);
        let received = web::block(move || {
            let mut socket = std::net::TcpStream::connect(address).unwrap();
            socket
                .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
                .unwrap();
            let bound = Some(Duration::from_secs(10));
            socket.set_read_timeout(bound).unwrap();
            let mut buffer = vec![0; part];
            let mut count = 0;
            while count < ANSWER {
                std::thread::sleep(pause);
                match socket.read(&mut buffer) {
                    Ok(0) | Err(_) => break,
                    Ok(read) => count += read,
                }
            }
            count
        })
        .await
        .unwrap();
        handle.stop(false).await;
        received
    }

    #[actix_web::test]
    async fn a_large_answer_may_take_longer_than_an_idle_connection_lives() {
        // 64 parts of 64 KiB take more than three seconds, twice what patience has.
        assert!(taken(64 << 10, Duration::from_millis(50)).await >= 4 << 20);
        // What the kernel holds is all that is left for somebody who takes nothing.
        let stuck = taken(4 << 20, PATIENCE.next * 3).await;
        assert!(stuck < 4 << 20, "{stuck}");
    }

    /// The client takes each part in time, but all together later than their size allows.
    #[test]
    fn a_large_answer_may_not_be_taken_for_ever() {
        let next = Duration::from_secs(75);
        let activity = Rc::new(Activity {
            in_flight: Cell::new(0),
            give_up_at: Cell::new(Instant::now()),
            patience: Patience { first: next, next },
        });
        let body = BoxBody::new(vec![b'x'; 3 * PART_BYTES]);
        let mut sending = Sending {
            body,
            rest: Bytes::new(),
            handed: None,
            patience: next,
            connection: Handle(Rc::clone(&activity)),
        };
        let mut context = Context::from_waker(std::task::Waker::noop());
        let mut waits = Vec::new();
        // The client comes back after 74 seconds each time.
        let late = Duration::from_secs(74);
        while let Poll::Ready(Some(part)) = Pin::new(&mut sending).poll_next(&mut context) {
            assert_eq!(part.unwrap().len(), PART_BYTES);
            let wait = activity.give_up_at.get() - sending.handed.unwrap();
            waits.push(wait.as_secs());
            sending.handed = sending.handed.and_then(|at| at.checked_sub(late));
        }
        // 75 seconds and two for each part, less those that it was waited for.
        let expected = [75, 5, 2];
        let is_near = |(wait, expected): (&u64, u64)| wait.abs_diff(expected) <= 1;
        assert_eq!(waits.len(), expected.len());
        assert!(waits.iter().zip(expected).all(is_near), "{waits:?}");
        // The next request has its own time.
        let left = activity.give_up_at.get() - Instant::now();
        assert!(left > next - Duration::from_secs(5), "{left:?}");
    }

    #[actix_web::test]
    async fn a_first_request_that_does_not_come_is_not_waited_for() {
        let (text, took) = received_after(&[b"POST /v1/track HTTP/1.1\r\nhost: x\r\n"]).await;
        assert_eq!(text, "");
        assert!(took >= HEAD_TIMEOUT && took < HEAD_TIMEOUT * 4, "{took:?}");
    }

    #[actix_web::test]
    async fn a_connection_that_has_asked_is_left_to_keep_alive() {
        let (text, took) = received_after(&[b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"]).await;
        assert!(text.starts_with("HTTP/1.1 200"), "{text}");
        assert!(took > HEAD_TIMEOUT * 2, "{took:?}");
    }

    #[actix_web::test]
    async fn a_later_request_that_does_not_come_whole_is_not_waited_for() {
        let parts: &[&[u8]] = &[
            b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
            b"GET / HTTP/1.1\r\nhost: ",
        ];
        let (text, took) = received_after(parts).await;
        assert_eq!(text.matches("HTTP/1.1 200").count(), 1, "{text}");
        assert!(took >= PATIENCE.next, "{took:?}");
        assert!(took < PATIENCE.next * 3, "{took:?}");
    }
}
