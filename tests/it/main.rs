//! Tests.

mod rules_official_suite;
mod rules_seed_vectors;
