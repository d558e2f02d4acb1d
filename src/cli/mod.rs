//! The command line, and the composition root: here, and only here, the services are made and
//! handed to each other.
//!
//! Results go to standard output, everything else to standard error, so that output can be piped.
//! [`Exit`] lists the exit codes.

mod compose;
mod config;
mod database;
mod demo;
mod doctor;
mod explain;
mod import;
mod keys;
mod ledger;
mod migrate;
mod output;
mod prepare;
mod rejected;
mod replay;
mod retention;
mod running;
mod serve;
mod settings;
mod signals;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

use crate::config::{Config, ConfigErrors, Mode, Sources};
use crate::embedded_pg::EmbeddedError;
use crate::store::migrate::MigrateError;
use settings::{CommandSettings, ServerSettings};

const EXIT_CODES: &str = "Exit codes:
  0  done
  1  failed; the reason is on standard error
  2  the command line or the configuration is wrong
  3  an import was not verified: the database does not hold what the file says
  128 and the signal's number: ended by a signal

Every setting can come from a flag, the environment or a file, in this order.
`beckon config example` prints them all with their documentation.";

/// Event ingestion and campaign targeting on one binary and Postgres.
#[derive(Debug, Parser)]
#[command(name = "beckon", version, after_help = EXIT_CODES, max_term_width = 100)]
struct Cli {
    /// The configuration file [default: beckon.toml, if there is one; environment: BECKON_CONFIG].
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server.
    #[command(after_help = "Examples:
  beckon serve
  DATABASE_URL=postgres://beckon:secret@db/beckon?sslmode=require beckon serve
  beckon serve --listen 0.0.0.0:8080 --log beckon=debug

It prints `listening on http://HOST:PORT` once it takes calls. SIGTERM, SIGINT or SIGHUP stop it.")]
    Serve {
        #[command(flatten)]
        settings: ServerSettings,
    },
    /// Run the server with a private Postgres, sample data and keys to try it with.
    Demo {
        #[command(flatten)]
        settings: ServerSettings,
    },
    /// Bring the database to this binary's schema, show where it stands, or take a step back.
    Migrate(migrate::MigrateArgs),
    /// Read the data.json of an EmbeddedCraft server, or take such an import out again.
    Import(import::ImportArgs),
    /// Create, list and revoke API keys.
    Keys(keys::KeysArgs),
    /// List rejected events, show them, and replay them after a fix.
    Rejected(rejected::RejectedArgs),
    /// Tell why somebody is shown a campaign, or is not: every gate and the values it saw.
    Explain(explain::ExplainArgs),
    /// Try a draft of a campaign on stored events: whom it would have reached.
    Replay(replay::ReplayArgs),
    /// Show what became of the events received: stored, duplicate or rejected, by day.
    Ledger(ledger::LedgerArgs),
    /// Drop events that are past their retention.
    Retention(retention::RetentionArgs),
    /// Check, show and document the settings.
    Config(config::ConfigArgs),
    /// Check what durability and the schedule depend on, and say what to do.
    Doctor(doctor::DoctorArgs),
}

/// The exit codes that scripts may rely on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// Failed.
    Failed = 1,
    /// The command line or the configuration is wrong.
    Usage = 2,
    /// An import was not verified.
    NotVerified = 3,
}

/// Why a command ended early.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
struct Failure {
    exit: Exit,
    message: String,
}

impl Failure {
    fn new(message: impl Into<String>) -> Self {
        Self {
            exit: Exit::Failed,
            message: message.into(),
        }
    }

    fn usage(message: impl Into<String>) -> Self {
        Self {
            exit: Exit::Usage,
            message: message.into(),
        }
    }
}

impl From<ConfigErrors> for Failure {
    fn from(errors: ConfigErrors) -> Self {
        Self::usage(errors.to_string())
    }
}

macro_rules! fails_with {
    ($($error:ty),*) => {$(
        impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self::new(error.to_string())
            }
        }
    )*};
}

fails_with!(
    EmbeddedError,
    MigrateError,
    diesel::result::Error,
    diesel::result::ConnectionError,
    std::io::Error,
    crate::error::Error,
    crate::retention::RetentionError,
    crate::transfer::TransferError
);

/// What every command returns: the exit code of its success, or why it ended early.
type Outcome = Result<Exit, Failure>;

/// Runs the command of this process's command line.
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(shown) => {
            // Help and version are answers; everything else is a wrong command line.
            let exit = match shown.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Exit::Done,
                _ => Exit::Usage,
            };
            let _nobody_reads = shown.print();
            return ExitCode::from(exit as u8);
        }
    };
    let exit = dispatch(cli).unwrap_or_else(|failure| {
        output::note(format_args!("error: {}", failure.message));
        failure.exit
    });
    ExitCode::from(exit as u8)
}

fn dispatch(cli: Cli) -> Outcome {
    let file = cli.config;
    match cli.command {
        Command::Serve { settings } => serve::serve(&load(file, settings.flags, Mode::Normal)?),
        Command::Demo { settings } => demo::demo(&load(file, settings.flags, Mode::Demo)?),
        Command::Migrate(arguments) => {
            let config = command(file, &arguments.settings)?;
            migrate::run(&config, &arguments)
        }
        Command::Import(arguments) => {
            let config = command(file, &arguments.settings)?;
            import::run(&config, &arguments)
        }
        Command::Keys(arguments) => {
            let config = command(file, &arguments.settings)?;
            keys::run(&config, &arguments)
        }
        Command::Rejected(arguments) => {
            let config = command(file, &arguments.settings)?;
            rejected::run(&config, &arguments)
        }
        Command::Explain(arguments) => {
            let config = command(file, &arguments.settings)?;
            explain::run(&config, &arguments)
        }
        Command::Replay(arguments) => {
            let config = command(file, &arguments.settings)?;
            replay::run(&config, &arguments)
        }
        Command::Ledger(arguments) => {
            let config = command(file, &arguments.settings)?;
            ledger::run(&config, &arguments)
        }
        Command::Retention(arguments) => {
            let config = command(file, &arguments.settings)?;
            retention::run(&config, &arguments)
        }
        Command::Config(arguments) => config::run(file, arguments),
        Command::Doctor(arguments) => {
            let config = command(file, &arguments.settings)?;
            doctor::run(&config, &arguments)
        }
    }
}

/// Loads the settings of a command that is no server.
fn command(file: Option<PathBuf>, settings: &CommandSettings) -> Result<Config, Failure> {
    // A key that is too short is the server's concern; the demo's own would refuse its commands.
    load(file, settings.flags.clone(), Mode::Demo)
}

fn load(
    file: Option<PathBuf>,
    flags: Vec<(&'static str, String)>,
    mode: Mode,
) -> Result<Config, Failure> {
    let settings = Sources::of_process(file, flags).read()?;
    let config = settings.check(mode)?;
    crate::telemetry::start(&config.log, config.log_format);
    for warning in settings.warnings() {
        tracing::warn!("{warning}");
    }
    Ok(config)
}
