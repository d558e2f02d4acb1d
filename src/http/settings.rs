//! How the HTTP server behaves. Every bound has a default that fits real SDK traffic.

use std::time::Duration;

use crate::ingest::decode::DecodeLimits;

/// Which web origins may call from a browser.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CorsOrigins {
    /// These origins, and those that a project lists for keyless ingest.
    List(Vec<String>),
    /// Every origin is mirrored. For a demo on one's own machine.
    Mirror,
}

/// A token bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Requests (of a project: events) a second in the long run; 0 switches the limit off.
    pub per_second: u32,
    /// How many may come at once; at least one.
    pub burst: u32,
}

/// Who may scrape `/metrics`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MetricsAccess {
    /// Whoever has a key that may read; it sees the server's series and those of its own project.
    #[default]
    Key,
    /// Everybody, everything.
    Public,
    /// Nobody.
    Off,
}

/// The settings of the HTTP server.
#[derive(Debug, Clone)]
pub struct HttpSettings {
    /// Origins that get permission from CORS. Default: none but the projects' own.
    pub cors_origins: CorsOrigins,
    /// Whether pages served from localhost may use the `default` project without a key, as one of
    /// the seed's SDKs does. For a demo. Default: no.
    pub keyless_localhost: bool,
    /// What one key may ask. Default: 10,000 a second, 20,000 at once.
    pub key_rate: Rate,
    /// What one address may ask. Default: 10,000 a second, 20,000 at once, since a proxy or a
    /// company's gateway is one address.
    pub address_rate: Rate,
    /// How many events one project may send. Default: as many as it likes.
    pub project_rate: Rate,
    /// How many different unknown keys one address may try in a minute; 0 switches the limit off.
    /// Default: 100.
    pub key_misses_per_minute: u32,
    /// How many addresses and keys the limits remember. Default: 100,000 each.
    pub rate_entries_max: usize,
    /// How many reverse proxies stand in front; so many entries of `X-Forwarded-For` are believed,
    /// counted from the right. Default: 0, the header is ignored.
    pub trusted_proxy_hops: usize,
    /// How long a new connection may take to send its first request's head. Default: 10 s.
    pub head_timeout: Duration,
    /// The longest pause within a body. Default: 10 s.
    pub body_idle_timeout: Duration,
    /// The longest time for a whole body. Default: 60 s.
    pub body_timeout: Duration,
    /// How many bytes of bodies may be held in memory at once. Default: 256 MiB.
    pub bodies_bytes_max: usize,
    /// The largest body of an admin request, in bytes. Default: 1 MiB.
    pub admin_body_bytes_max: usize,
    /// The most stored events a second that a replay of a draft reads.
    pub replay_events_per_second: u32,
    /// How long an idle connection is kept. Default: 75 s, above what common proxies keep.
    pub keep_alive: Duration,
    /// The bounds of decoding.
    pub decode: DecodeLimits,
    /// Whether `/docs` and `/openapi.json` are served. Default: yes.
    pub docs: bool,
    /// Who may scrape `/metrics`. Default: keys that may read.
    pub metrics: MetricsAccess,
    /// Worker threads; `None` is one a core.
    pub workers: Option<usize>,
    /// Connections all workers together hold at once. Default: 20,000.
    pub connections_max: usize,
    /// How long a graceful stop waits for requests in flight. Default: 8 s.
    pub shutdown_timeout: Duration,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            cors_origins: CorsOrigins::List(Vec::new()),
            keyless_localhost: false,
            key_rate: Rate {
                per_second: 10_000,
                burst: 20_000,
            },
            address_rate: Rate {
                per_second: 10_000,
                burst: 20_000,
            },
            project_rate: Rate {
                per_second: 0,
                burst: 1,
            },
            key_misses_per_minute: 100,
            rate_entries_max: 100_000,
            trusted_proxy_hops: 0,
            head_timeout: Duration::from_secs(10),
            body_idle_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(60),
            bodies_bytes_max: 256 * 1024 * 1024,
            admin_body_bytes_max: 1024 * 1024,
            replay_events_per_second: 5_000,
            keep_alive: Duration::from_secs(75),
            decode: DecodeLimits::default(),
            docs: true,
            metrics: MetricsAccess::default(),
            workers: None,
            connections_max: 20_000,
            shutdown_timeout: Duration::from_secs(8),
        }
    }
}
