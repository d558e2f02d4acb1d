//! Every setting there is, documented here and nowhere else: the help texts, the checks, the
//! example file and `config show` are made from this list.
//!
//! One name has three spellings: `limit_event_bytes` in the file, `BECKON_LIMIT_EVENT_BYTES` in the
//! environment, `--limit-event-bytes` as a flag. Only `database_url` has another name in the
//! environment, the customary `DATABASE_URL`.

/// Which commands a setting concerns; it decides in whose help it is listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Concerns {
    /// Every command that opens the database or writes a log.
    Everything,
    /// The server alone.
    Server,
}

/// One setting.
#[derive(Debug)]
pub struct Variable {
    /// Its name in the file.
    pub name: &'static str,
    /// The text that stands for an absent value; empty when there is none.
    pub default: &'static str,
    /// What the value looks like, for the help.
    pub shape: &'static str,
    /// What it does, its unit and its bounds.
    pub help: &'static str,
    /// Whether it must not be shown.
    pub secret: bool,
    /// Who reads it.
    pub concerns: Concerns,
}

impl Variable {
    /// The name in the environment.
    pub fn env(&self) -> String {
        if self.name == "database_url" {
            return "DATABASE_URL".to_owned();
        }
        format!("BECKON_{}", self.name.to_ascii_uppercase())
    }

    /// The flag, without its dashes.
    pub fn flag(&self) -> String {
        self.name.replace('_', "-")
    }

    const fn everything(
        name: &'static str,
        default: &'static str,
        shape: &'static str,
        help: &'static str,
    ) -> Self {
        Self {
            name,
            default,
            shape,
            help,
            secret: false,
            concerns: Concerns::Everything,
        }
    }

    const fn server(
        name: &'static str,
        default: &'static str,
        shape: &'static str,
        help: &'static str,
    ) -> Self {
        Self {
            name,
            default,
            shape,
            help,
            secret: false,
            concerns: Concerns::Server,
        }
    }

    const fn secret(self) -> Self {
        Self {
            secret: true,
            ..self
        }
    }
}

/// The list.
pub const VARIABLES: &[Variable] = &[
    Variable::server(
        "listen",
        "127.0.0.1:8080",
        "HOST:PORT",
        "Where to listen. Port 0 takes a free one; the address that was bound is printed.",
    ),
    Variable::everything(
        "data_dir",
        "",
        "DIR",
        "The folder of the private Postgres that is used when database_url is not set. When this \
         is not set either: .beckon below the current folder, or /var/lib/beckon where the \
         unprivileged account of a Postgres that root starts cannot enter that.",
    ),
    Variable::everything(
        "database_url",
        "",
        "URL",
        "The Postgres to use, as a URL or libpq connection string; sslmode asks for TLS. Not set: \
         a private Postgres in data_dir. The demo always uses its private one.",
    ),
    Variable::server(
        "admin_key",
        "",
        "KEY",
        "An admin key to create in the project `default` if it is absent. At least 16 characters, \
         except in the demo. Prefer the environment: other users of the machine can see flags.",
    )
    .secret(),
    Variable::server(
        "client_key",
        "",
        "KEY",
        "A client key to create in the project `default` if it is absent. As admin_key.",
    )
    .secret(),
    Variable::everything(
        "log",
        "info",
        "FILTER",
        "What is logged, in tracing's syntax: `info`, `beckon=debug,actix_server=warn`.",
    ),
    Variable::everything(
        "log_format",
        "auto",
        "auto|json|text",
        "How it is logged, to standard error. auto is text on a terminal, else json.",
    ),
    Variable::server(
        "shutdown_timeout_ms",
        "7000",
        "MS",
        "How long requests in flight may take to finish after SIGTERM, SIGINT or SIGHUP, in ms. \
         With the default the server ends within 10 s. 1000 to 60000.",
    ),
    Variable::server(
        "trusted_proxy_hops",
        "0",
        "COUNT",
        "How many reverse proxies stand in front: so many entries of X-Forwarded-For are believed, \
         counted from the right. 0 ignores the header. 0 to 16.",
    ),
    Variable::server(
        "cors_origins",
        "",
        "ORIGINS",
        "Origins whose pages may call, separated by commas, as https://app.example.com; * for all. \
         The demo allows all.",
    ),
    Variable::server(
        "docs",
        "true",
        "true|false",
        "Whether /openapi.json and /docs are served.",
    ),
    Variable::server(
        "metrics",
        "key",
        "key|public|off",
        "Who may scrape /metrics: whoever has a read or admin key (it sees the server's figures and \
         those of its own project), everybody (all projects), or nobody.",
    ),
    Variable::server(
        "metrics_listen",
        "",
        "HOST:PORT",
        "An address of its own for /metrics, without a key and with all projects: a loopback or \
         private one. Not set: none.",
    ),
    Variable::everything(
        "allow_unsafe_database",
        "false",
        "true|false",
        "Whether to serve on a Postgres with fsync or full_page_writes off, which may lose or \
         damage what it has acknowledged.",
    ),
    Variable::server(
        "connections_max",
        "20000",
        "COUNT",
        "Connections of clients held at once, over all worker threads; others wait until one is \
         free. Each takes two open files. 2 to 1000000.",
    ),
    Variable::server(
        "head_timeout_ms",
        "10000",
        "MS",
        "How long a connection may take to send the head of its first request, in milliseconds. \
         Who is slower is disconnected without an answer, here as below. 100 to 60000.",
    ),
    Variable::server(
        "body_pause_ms",
        "10000",
        "MS",
        "The longest pause within a body, in milliseconds. 100 to 60000.",
    ),
    Variable::server(
        "body_timeout_ms",
        "60000",
        "MS",
        "The longest time for a whole body, in milliseconds. 100 to 600000.",
    ),
    Variable::server(
        "keep_alive_ms",
        "75000",
        "MS",
        "How long an idle connection is kept, in milliseconds; more than what a proxy in front \
         keeps. The next head may take head_timeout_ms longer. 1000 to 600000.",
    ),
    Variable::server(
        "pool_size",
        "8",
        "COUNT",
        "Connections that reads and admin writes share. 1 to 200.",
    ),
    Variable::server(
        "database_deadline_ms",
        "1800",
        "MS",
        "How long a request waits for the database before it is answered with 503, in \
         milliseconds. 100 to 60000.",
    ),
    Variable::server(
        "ingest_shards",
        "2",
        "COUNT",
        "Threads that keep the order of each person's events, with a database connection each. \
         1 to 64.",
    ),
    Variable::server(
        "ingest_queue_events",
        "20000",
        "COUNT",
        "Events that may wait for one shard, those being written included; beyond it calls are \
         answered with 503. One project may hold twice what is free, so never more than two \
         thirds; one that wants more while others have work is answered with 429. 10 to 10000000.",
    ),
    Variable::server(
        "ingest_queue_bytes",
        "64MiB",
        "BYTES",
        "Their size together. 1MiB to 64GiB.",
    ),
    Variable::server(
        "ingest_batch_events",
        "2500",
        "COUNT",
        "The most events one transaction writes. 1 to 10000.",
    ),
    Variable::server(
        "ingest_batch_bytes",
        "8MiB",
        "BYTES",
        "Their size together; one larger event is written alone. 64KiB to 256MiB.",
    ),
    Variable::server(
        "limit_event_bytes",
        "1MiB",
        "BYTES",
        "The largest event, as received. 1KiB to 64MiB.",
    ),
    Variable::server(
        "limit_body_bytes",
        "8MiB",
        "BYTES",
        "The largest body, decompressed. 1KiB to 256MiB, and no less than limit_event_bytes.",
    ),
    Variable::server(
        "limit_bodies_bytes",
        "256MiB",
        "BYTES",
        "Bodies that are being received or decoded, all together, as received; beyond it calls are \
         answered with 503. A quarter of it is for calls without a known key in the head. 1MiB to \
         64GiB, and no less than limit_body_bytes.",
    ),
    Variable::server(
        "limit_admin_body_bytes",
        "1MiB",
        "BYTES",
        "The largest body of an admin call. 1KiB to 64MiB.",
    ),
    Variable::server(
        "limit_batch_events",
        "2500",
        "COUNT",
        "The most events in one batch. 1 to 100000.",
    ),
    Variable::server(
        "limit_nesting",
        "256",
        "DEPTH",
        "The deepest nesting of JSON. 16 to 1000.",
    ),
    Variable::server(
        "limit_message_id_chars",
        "1024",
        "COUNT",
        "The longest message id. 36 to 1024.",
    ),
    Variable::server(
        "limit_traits_bytes",
        "256KiB",
        "BYTES",
        "The largest traits of one person, all identifies together. 1KiB to 16MiB.",
    ),
    Variable::server(
        "user_cache_bytes",
        "auto",
        "BYTES",
        "Memory for the state of people seen lately: 1MiB to 64GiB, or auto for a sixteenth of the \
         memory that the process may use, from 64MiB to 4GiB. Somebody with 30 traits takes 1KiB; \
         whoever is not remembered is read from the database.",
    ),
    Variable::server(
        "key_requests_per_second",
        "10000",
        "COUNT",
        "Calls a second of one key, with bursts of twice as many; 0 switches it off. Up to \
         1000000.",
    ),
    Variable::server(
        "address_requests_per_second",
        "10000",
        "COUNT",
        "Calls a second of one address, with bursts of twice as many; 0 switches it off. A proxy \
         or a company's gateway is one address. Up to 1000000.",
    ),
    Variable::server(
        "project_events_per_second",
        "0",
        "COUNT",
        "Events a second of one project on one node, with bursts of twice as many; beyond it calls \
         are answered with 429. A batch larger than the burst counts as a burst. 0 switches it \
         off. Up to 10000000.",
    ),
    Variable::server(
        "key_misses_per_minute",
        "100",
        "COUNT",
        "How many unknown keys one address may try in a minute; 0 switches it off. Up to 1000000.",
    ),
    Variable::server(
        "campaign_failures_max",
        "1000",
        "COUNT",
        "At how many calls in a row a campaign's targeting may fail at run time before the campaign \
         is taken out of service, until it is saved again. 0 never takes it out. Up to 1000000.",
    ),
    Variable::server(
        "retention_schedule",
        "0 17 3 * * *",
        "CRON",
        "When old events are dropped: second, minute, hour, day of the month, month, day of the \
         week (0 and 7 are Sunday, 1 is Monday; or a name, as in Mon), in UTC. The second may be \
         left out, and there is no year. How long events are kept is the project's.",
    ),
    Variable::everything(
        "rejected_retention_days",
        "30",
        "DAYS",
        "How long rejected events are kept, unless the project keeps its events for less. 1 to \
         36500.",
    ),
    Variable::everything(
        "partitions_ahead_days",
        "7",
        "DAYS",
        "Days whose partitions are created ahead. 1 to 60.",
    ),
    Variable::everything(
        "replay_events_per_second",
        "5000",
        "COUNT",
        "How many stored events a replay of a draft reads a second at most, so that it does not \
         disturb ingest. 1 to 1000000.",
    ),
    Variable::everything(
        "dedupe_window_days",
        "7",
        "DAYS",
        "How long a message id is remembered at least; at most twice as long. 1 to 90.",
    ),
];
