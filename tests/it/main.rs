//! The integration tests: one binary, whose tree mirrors what it tests.
//!
//! Most are black box: each starts the real server on a database of its own, talks to it over
//! HTTP, and looks into the database past it.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking and tells its seed"
)]

mod admin_events;
mod analytics;
mod auth_matrix;
mod bombs;
mod bounded_reads;
mod campaign_flow;
mod cli;
mod compiled_vectors;
mod config;
mod crash;
mod decided_ahead;
mod decided_apart;
mod decode_encoding;
mod decode_fuzz;
mod decode_recordings;
mod decode_replay;
mod decode_rules;
mod deploy;
mod disk_full;
mod docs;
mod embedded_pg;
mod explain;
mod golden;
mod hostile;
mod http_edges;
mod idempotency;
mod identity;
mod import;
mod import_edges;
mod imports_direction;
mod ingest;
mod ingest_core;
mod ingest_identities;
mod ingest_model;
mod ingest_outcomes;
mod ingest_shard;
mod isolation;
mod keys;
mod ledger;
mod live_changes;
mod many_digits;
mod matcher_model;
mod matcher_oracle;
mod metrics;
mod migrations;
mod nodes;
mod outage;
mod overload;
mod partitions;
mod partitions_under_fire;
mod pool_shares;
mod private_postgres;
mod publish;
mod quarantine;
mod readiness;
mod rejected;
mod replay;
mod retention;
mod rules_official_suite;
mod rules_seed_vectors;
mod segment_replay;
mod short_turns;
mod slow_clients;
mod support;
mod tls;
mod whole_snapshots;
