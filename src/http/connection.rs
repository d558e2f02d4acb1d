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
