//! The integration tests: one binary, whose tree mirrors what it tests.
//!
//! They are black box: each starts the real server on a database of its own, talks to it over
//! HTTP, and looks into the database past it.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking and tells its seed"
)]

mod admin_events;
mod auth_matrix;
mod campaign_flow;
mod crash;
mod docs;
mod embedded_pg;
mod golden;
mod hostile;
mod identity;
mod imports_direction;
mod ingest;
mod isolation;
mod keys;
mod migrations;
mod nodes;
mod readiness;
mod segment_replay;
mod support;
