//! Beckon.

pub mod embedded_pg;
