//! The flags of the settings, made from the one list that documents them.

use clap::{Arg, ArgMatches, Args, Command, FromArgMatches};

use crate::config::{Concerns, VARIABLES, Variable};

/// The settings that the server reads: all of them.
#[derive(Debug, Clone)]
pub(super) struct ServerSettings {
    /// A setting's name and the text given.
    pub(super) flags: Vec<(&'static str, String)>,
}

/// The settings that every other command reads.
#[derive(Debug, Clone)]
pub(super) struct CommandSettings {
    /// A setting's name and the text given.
    pub(super) flags: Vec<(&'static str, String)>,
}

fn for_commands() -> impl Iterator<Item = &'static Variable> {
    VARIABLES
        .iter()
        .filter(|variable| variable.concerns == Concerns::Everything)
}

fn arguments<'a>(variables: impl Iterator<Item = &'a Variable>) -> Vec<Arg> {
    variables
        .map(|variable| {
            let default = match variable.default {
                "" => String::new(),
                default => format!(" [default: {default}]"),
            };
            Arg::new(variable.name)
                .long(variable.flag())
                .value_name(variable.shape)
                .help_heading("Settings")
                .help(format!(
                    "{}{default} [environment: {}]",
                    variable.help,
                    variable.env()
                ))
        })
        .collect()
}

fn given<'a>(
    matches: &ArgMatches,
    variables: impl Iterator<Item = &'a Variable>,
) -> Vec<(&'a str, String)> {
    variables
        .filter_map(|variable| {
            let text = matches.get_one::<String>(variable.name)?;
            Some((variable.name, text.clone()))
        })
        .collect()
}

macro_rules! settings_arguments {
    ($settings:ident, $variables:expr) => {
        impl FromArgMatches for $settings {
            fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
                let flags = given(matches, $variables);
                Ok(Self { flags })
            }

            fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
                self.flags.extend(given(matches, $variables));
                Ok(())
            }
        }

        impl Args for $settings {
            fn augment_args(command: Command) -> Command {
                command.args(arguments($variables))
            }

            fn augment_args_for_update(command: Command) -> Command {
                Self::augment_args(command)
            }
        }
    };
}

settings_arguments!(ServerSettings, VARIABLES.iter());
settings_arguments!(CommandSettings, for_commands());
