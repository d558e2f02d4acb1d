//! Beckon: event ingestion and campaign targeting on one binary and Postgres.
//!
//! `ARCHITECTURE.md` is the map of the modules and of the direction in which they import.

pub mod clock;
pub mod embedded_pg;
pub mod error;
pub mod ingest;
pub mod model;
pub mod store;
pub mod targeting;
