//! Beckon.

pub mod rules;
