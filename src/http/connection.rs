//! Closes connections whose first request does not come.
//!
//! The framework has a timeout for that, but it answers 408, which SDKs retry; so it is switched
//! off and this one closes the socket without a word. It holds a second handle of the socket, only
//! until the first request's head is complete. Idle connections after that are the keep-alive
//! timeout's.

use std::any::Any;
use std::cell::Cell;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::time::Duration;

use actix_web::dev::Extensions;
use actix_web::rt;
use actix_web::rt::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::timeout;

/// Tells the watch that a request has come; lives as long as the connection.
pub(super) struct FirstRequest(Cell<Option<oneshot::Sender<()>>>);

impl FirstRequest {
    /// Ends the watch.
    pub(super) fn has_come(&self) {
        // Dropping the sender is the signal.
        drop(self.0.take());
    }
}

/// Starts the watch of a new connection.
pub(super) fn watch(connection: &dyn Any, extensions: &mut Extensions, head_timeout: Duration) {
    let Some(stream) = connection.downcast_ref::<TcpStream>() else {
        return;
    };
    let socket = match stream.as_fd().try_clone_to_owned() {
        Ok(handle) => std::net::TcpStream::from(handle),
        Err(error) => {
            tracing::warn!(error = %error, "a connection is not watched for a slow first request");
            return;
        }
    };
    let (sender, come_or_gone) = oneshot::channel::<()>();
    extensions.insert(FirstRequest(Cell::new(Some(sender))));
    rt::spawn(async move {
        if timeout(head_timeout, come_or_gone).await.is_err()
            && let Err(error) = socket.shutdown(Shutdown::Both)
        {
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

    async fn received_after(sent: &'static [u8]) -> (String, Duration) {
        let server = HttpServer::new(|| {
            App::new().default_service(web::to(|request: HttpRequest| async move {
                request.conn_data::<FirstRequest>().unwrap().has_come();
                HttpResponse::Ok().body("fine")
            }))
        })
        .on_connect(|connection, extensions| watch(connection, extensions, HEAD_TIMEOUT))
        .client_request_timeout(Duration::ZERO)
        .keep_alive(Duration::from_secs(2))
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
            socket.write_all(sent).unwrap();
            let mut text = String::new();
            // A reset is as good as an end.
            let _ended = socket.read_to_string(&mut text);
            (text, started.elapsed())
        });
        let received = received.await.unwrap();
        handle.stop(false).await;
        received
    }

    #[actix_web::test]
    async fn a_first_request_that_does_not_come_is_not_waited_for() {
        let (text, took) = received_after(b"POST /v1/track HTTP/1.1\r\nhost: x\r\n").await;
        assert_eq!(text, "");
        assert!(took >= HEAD_TIMEOUT && took < HEAD_TIMEOUT * 4, "{took:?}");
    }

    #[actix_web::test]
    async fn a_connection_that_has_asked_is_left_to_keep_alive() {
        let (text, took) = received_after(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert!(text.starts_with("HTTP/1.1 200"), "{text}");
        assert!(took > HEAD_TIMEOUT * 2, "{took:?}");
    }
}
