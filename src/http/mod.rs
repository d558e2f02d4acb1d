//! The HTTP layer: from requests to calls of the services, and from their results to answers.
//!
//! It may read through `store` directly; a write that changes what matches goes through
//! `targeting`, events go through `ingest`. Nothing below knows HTTP.
//!
//! A request passes `envelope` (its name, limits, CORS, the form of its errors), then the route
//! that `routes` lists; what the route's handler takes as arguments checks its permissions.

pub mod auth;
pub mod body;
mod connection;
mod cors;
mod cursor;
mod envelope;
pub mod limits;
mod metrics;
pub mod openapi;
pub mod problem;
pub mod query;
mod request_id;
mod routes;
pub mod settings;
pub mod state;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use actix_web::dev::{Server, ServerHandle};
use actix_web::middleware::from_fn;
use actix_web::{App, HttpServer, web};
use utoipa_actix_web::AppExt;

pub use metrics::{RequestMetrics, serve_metrics};
pub use settings::{CorsOrigins, HttpSettings, MetricsAccess, Rate};
pub use state::{AppState, Readiness};

/// A server that accepts connections once `server` is polled.
#[expect(
    missing_debug_implementations,
    reason = "the framework's server has none"
)]
pub struct Serving {
    /// Where it listens; with port 0 asked for, the one that was given.
    pub address: SocketAddr,
    /// Stops it: `handle.stop(true)` finishes what is in flight.
    pub handle: ServerHandle,
    /// The server, to be awaited. It handles no signals by itself.
    pub server: Server,
}

/// Builds the server on a listener that is bound already.
pub fn serve(state: AppState, listener: TcpListener) -> io::Result<Serving> {
    let address = listener.local_addr()?;
    let settings = Arc::clone(&state.settings);
    let patience = connection::Patience {
        first: settings.head_timeout,
        next: settings.keep_alive + settings.head_timeout,
    };
    let known = web::Data::new(routes::Known::new(&openapi::document()));
    let state = web::Data::new(state);
    let docs = settings.docs;
    let workers = settings
        .workers
        .map_or_else(cores, |workers| workers.max(1));
    let server = HttpServer::new(move || {
        let known = known.clone();
        App::new()
            .app_data(state.clone())
            .app_data(known)
            .wrap(from_fn(envelope::envelope))
            .into_utoipa_app()
            .configure(routes::configure)
            .into_app()
            .configure(move |config| routes::configure_docs(config, docs))
            .default_service(web::to(routes::not_found))
    })
    .on_connect(move |connection, extensions| {
        connection::watch(connection, extensions, patience);
    })
    // Zero switches the framework's timeout off, which would answer 408; `connection` has its own.
    .client_request_timeout(std::time::Duration::ZERO)
    // An answer given before the body was read can still be read by a client that is sending.
    .client_disconnect_timeout(std::time::Duration::from_secs(2))
    // An answer would wait until the client has confirmed the one before it, which a client that
    // sends several requests ahead does only after 40 ms.
    .tcp_nodelay(true)
    .keep_alive(settings.keep_alive)
    .workers(workers)
    .max_connections(settings.connections_max.div_ceil(workers))
    .shutdown_timeout(settings.shutdown_timeout.as_secs())
    .disable_signals();
    let server = server.listen(listener)?.run();
    Ok(Serving {
        address,
        handle: server.handle(),
        server,
    })
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(2, std::num::NonZero::get)
}
