//! `beckon demo`.
use super::{Exit, Outcome};
use crate::config::Config;
pub(super) fn demo(_config: &Config) -> Outcome {
    Ok(Exit::Done)
}
