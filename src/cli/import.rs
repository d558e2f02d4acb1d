//! `beckon import`.
use super::settings::CommandSettings;
use super::{Exit, Outcome};
use crate::config::Config;
use clap::Args;
#[derive(Debug, Args)]
pub(super) struct ImportArgs {
    #[command(flatten)]
    pub(super) settings: CommandSettings,
}
pub(super) fn run(_config: &Config, _arguments: &ImportArgs) -> Outcome {
    Ok(Exit::Done)
}
