//! `beckon config`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::config::{Mode, Sources, example_file};

use super::settings::ServerSettings;
use super::{Exit, Failure, Outcome, output};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  beckon config check
  beckon config show --json | jq -r '.[] | select(.origin != \"default\") | .name'
  beckon config example > beckon.toml")]
pub(super) struct ConfigArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Check the settings as `beckon serve` would; exit code 2 if anything is wrong.
    Check {
        #[command(flatten)]
        settings: ServerSettings,
    },
    /// Print every setting with where it came from, without keys and passwords.
    Show {
        /// Print one JSON document.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        settings: ServerSettings,
    },
    /// Print a configuration file with every setting, its documentation and its default.
    Example,
}

pub(super) fn run(file: Option<PathBuf>, arguments: ConfigArgs) -> Outcome {
    match arguments.action {
        Action::Check { settings } => check(file, settings),
        Action::Show { json, settings } => show(file, settings, json),
        Action::Example => {
            output::line(example_file().trim_end());
            Ok(Exit::Done)
        }
    }
}

fn check(file: Option<PathBuf>, settings: ServerSettings) -> Outcome {
    let settings = Sources::of_process(file, settings.flags).read()?;
    for warning in settings.warnings() {
        output::note(format_args!("warning: {warning}"));
    }
    settings.check(Mode::Normal).map_err(Failure::from)?;
    output::line("the settings are good");
    Ok(Exit::Done)
}

fn show(file: Option<PathBuf>, settings: ServerSettings, json: bool) -> Outcome {
    let settings = Sources::of_process(file, settings.flags).read()?;
    let shown = settings.redacted();
    if json {
        output::json(&shown);
    } else {
        let rows: Vec<Vec<String>> = shown
            .into_iter()
            .map(|setting| {
                vec![
                    setting.name.to_owned(),
                    setting.value.unwrap_or_else(|| "(not set)".to_owned()),
                    setting.origin,
                ]
            })
            .collect();
        output::table(&["SETTING", "VALUE", "FROM"], &rows);
    }
    // It shows what it found before it says what is wrong with it.
    settings.check(Mode::Normal)?;
    Ok(Exit::Done)
}
