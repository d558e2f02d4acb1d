//! The integration tests: one binary, whose tree mirrors what it tests.

mod embedded_pg;
mod support;
