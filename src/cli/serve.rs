//! `beckon serve`.
use super::{Exit, Outcome};
use crate::config::Config;
pub(super) fn serve(_config: &Config) -> Outcome {
    Ok(Exit::Done)
}
