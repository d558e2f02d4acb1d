//! The integration tests: one binary, whose tree mirrors what it tests.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod core_review;
mod decode_encoding;
mod decode_fuzz;
mod decode_recordings;
mod decode_rules;
mod embedded_pg;
mod ingest_model;
mod rules_official_suite;
mod rules_seed_vectors;
mod support;
