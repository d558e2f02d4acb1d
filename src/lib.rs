//! Beckon: event ingestion and campaign targeting on one binary and Postgres.
//!
//! `ARCHITECTURE.md` is the map of the modules and of the direction in which they import.

pub mod cli;
pub mod clock;
pub mod config;
pub mod embedded_pg;
pub mod error;
pub mod history;
pub mod http;
pub mod hub;
pub mod ingest;
pub mod matcher;
mod memory;
pub mod model;
pub mod retention;
pub mod rules;
pub mod segments;
pub mod store;
pub mod targeting;
pub mod telemetry;
pub mod transfer;
