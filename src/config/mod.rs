//! The settings: read from a file, the environment and flags, checked as a whole, then passed in.
//!
//! Flags win over the environment, the environment over the file, the file over the default; an
//! empty variable of the environment counts as absent. This is the one module that reads the
//! environment. It must not know what the settings are used for.
//!
//! [`VARIABLES`] documents every setting. A [`Config`] is good: whoever holds one need not check
//! it again.

mod connection;
mod file;
mod parse;
mod variables;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use variables::{Concerns, VARIABLES, Variable};

/// How log lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, else JSON.
    #[default]
    Auto,
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// Which origins' pages may call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CorsOrigins {
    /// Every origin.
    All,
    /// These alone.
    Listed(Vec<String>),
}

impl Default for CorsOrigins {
    fn default() -> Self {
        Self::Listed(Vec::new())
    }
}

/// Who may scrape `/metrics` where everything else is served.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MetricsSetting {
    /// Keys that may read.
    #[default]
    Key,
    /// Everybody.
    Public,
    /// Nobody.
    Off,
}

/// What a run is for; it decides how strict the checks are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Everything but the demo.
    Normal,
    /// The demo: short keys are allowed, as are all origins.
    Demo,
}

/// The settings, checked. Each field is documented in [`VARIABLES`] under the same name.
#[derive(Clone, Default)]
#[expect(missing_docs, reason = "VARIABLES documents each under the same name")]
pub struct Config {
    pub listen: String,
    pub data_dir: Option<PathBuf>,
    pub database_url: Option<String>,
    pub admin_key: Option<String>,
    pub client_key: Option<String>,
    pub log: String,
    pub log_format: LogFormat,
    pub shutdown_timeout: Duration,
    pub trusted_proxy_hops: usize,
    pub cors_origins: CorsOrigins,
    pub docs: bool,
    pub metrics: MetricsSetting,
    pub metrics_listen: Option<String>,
    pub allow_unsafe_database: bool,
    pub connections_max: usize,
    pub head_timeout: Duration,
    pub body_pause: Duration,
    pub body_timeout: Duration,
    pub keep_alive: Duration,
    pub pool_size: u32,
    pub database_deadline: Duration,
    pub ingest_shards: usize,
    pub ingest_queue_events: usize,
    pub ingest_queue_bytes: usize,
    pub ingest_batch_events: usize,
    pub ingest_batch_bytes: usize,
    pub limit_event_bytes: usize,
    pub limit_body_bytes: usize,
    pub limit_bodies_bytes: usize,
    pub limit_admin_body_bytes: usize,
    pub limit_batch_events: usize,
    pub limit_nesting: usize,
    pub limit_message_id_chars: usize,
    pub limit_traits_bytes: usize,
    /// `None` is `auto`.
    pub user_cache_bytes: Option<u64>,
    pub key_requests_per_second: u32,
    pub address_requests_per_second: u32,
    pub project_events_per_second: u32,
    pub key_misses_per_minute: u32,
    pub retention_schedule: String,
    pub rejected_retention_days: u32,
    /// How often in a row a campaign's targeting may fail before the campaign is taken out of
    /// service; 0 never takes it out.
    pub campaign_failures_max: u32,
    pub partitions_ahead_days: u32,
    pub replay_events_per_second: u32,
    pub dedupe_window_days: u32,
}

impl std::fmt::Debug for Config {
    /// Says nothing of the values: keys and passwords are among them.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config").finish_non_exhaustive()
    }
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// This line of the file.
    File(PathBuf, usize),
    /// The variable of this name in the environment.
    Environment(String),
    /// The flag of this name.
    Flag(String),
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Environment(name) => write!(f, "environment variable {name}"),
            Self::Flag(name) => write!(f, "flag --{name}"),
        }
    }
}

/// One setting as it was found.
#[derive(Clone)]
struct Found {
    text: String,
    origin: Origin,
}

/// Every setting as it was found, for showing.
#[derive(Clone)]
pub struct Settings {
    found: BTreeMap<&'static str, Found>,
    warnings: Vec<String>,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings").finish_non_exhaustive()
    }
}

/// Where to look for settings.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// A file that must exist; without it `beckon.toml` in the current folder, if there.
    pub file: Option<PathBuf>,
    /// The environment.
    pub environment: Vec<(String, String)>,
    /// The variables of the environment whose values are not UTF-8.
    pub unreadable: Vec<String>,
    /// Flags: a setting's name and the text given.
    pub flags: Vec<(&'static str, String)>,
}

/// What is wrong with the settings: one complete sentence each.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct ConfigErrors(pub Vec<String>);

/// The file that is read when none is named.
pub const DEFAULT_FILE: &str = "beckon.toml";

/// The variable of the environment that names the file.
pub const FILE_VARIABLE: &str = "BECKON_CONFIG";

/// How variables begin that Kubernetes sets by itself for a service named `beckon`.
const FOREIGN: [&str; 2] = ["BECKON_SERVICE_", "BECKON_PORT_"];

/// Another of these, whose value is a URL (`tcp://10.0.0.1:8080`). Somebody who sets it to a number
/// has taken it for a setting.
const FOREIGN_URL: &str = "BECKON_PORT";

fn is_foreign(name: &str, value: &str) -> bool {
    FOREIGN.iter().any(|prefix| name.starts_with(prefix))
        || (name == FOREIGN_URL && value.contains("://"))
}

impl Sources {
    /// The process's own environment, with a file and flags from the command line.
    pub fn of_process(file: Option<PathBuf>, flags: Vec<(&'static str, String)>) -> Self {
        let mut sources = Self {
            file,
            flags,
            ..Self::default()
        };
        for (name, value) in std::env::vars_os() {
            // One whose name is not text cannot be one of ours.
            let Ok(name) = name.into_string() else {
                continue;
            };
            if name == FILE_VARIABLE && !value.is_empty() {
                // A path need not be text.
                sources.file.get_or_insert_with(|| PathBuf::from(value));
                continue;
            }
            match value.into_string() {
                Ok(value) if value.is_empty() => {}
                Ok(value) => sources.environment.push((name, value)),
                Err(_) => sources.unreadable.push(name),
            }
        }
        sources
    }

    /// Reads every source.
    ///
    /// # Errors
    /// A file that cannot be read or has a key that is no setting; a variable of the environment
    /// that is a setting and no text.
    pub fn read(self) -> Result<Settings, ConfigErrors> {
        let is_ours = |name: &str| name.starts_with("BECKON_") || name == "DATABASE_URL";
        let unreadable: Vec<String> = self
            .unreadable
            .iter()
            .filter(|name| is_ours(name))
            .map(|name| format!("the value of the environment variable {name} is not UTF-8"))
            .collect();
        if !unreadable.is_empty() {
            return Err(ConfigErrors(unreadable));
        }
        let mut found: BTreeMap<&'static str, Found> = VARIABLES
            .iter()
            .map(|variable| {
                let text = variable.default.to_owned();
                let origin = Origin::Default;
                (variable.name, Found { text, origin })
            })
            .collect();
        let default_file = Path::new(DEFAULT_FILE);
        let path = match &self.file {
            Some(path) => Some(path.as_path()),
            None => default_file.exists().then_some(default_file),
        };
        if let Some(path) = path {
            for (name, text, line) in file::read(path)? {
                let origin = Origin::File(path.to_owned(), line);
                found.insert(name, Found { text, origin });
            }
        }
        let mut warnings = Vec::new();
        for (env, text) in self.environment {
            match VARIABLES.iter().find(|variable| variable.env() == env) {
                Some(variable) => {
                    let origin = Origin::Environment(env);
                    found.insert(variable.name, Found { text, origin });
                }
                None if env.starts_with("BECKON_")
                    && env != FILE_VARIABLE
                    && !is_foreign(&env, &text) =>
                {
                    warnings.push(format!(
                        "the environment variable {env} is no setting of Beckon{}",
                        parse::suggestion(&env, VARIABLES.iter().map(Variable::env))
                    ));
                }
                None => {}
            }
        }
        for (name, text) in self.flags {
            let origin = Origin::Flag(name.replace('_', "-"));
            found.insert(name, Found { text, origin });
        }
        Ok(Settings { found, warnings })
    }
}

/// One line of `config show`.
#[derive(Debug, serde::Serialize)]
pub struct Shown {
    /// The setting.
    pub name: &'static str,
    /// Its value; keys and passwords are replaced.
    pub value: Option<String>,
    /// Where it came from.
    pub origin: String,
}

impl Settings {
    /// What may be a mistake and is none for sure.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Every setting, without keys and passwords.
    pub fn redacted(&self) -> Vec<Shown> {
        VARIABLES
            .iter()
            .filter_map(|variable| {
                let found = self.found.get(variable.name)?;
                let value = match found.text.as_str() {
                    "" => None,
                    _ if variable.secret => Some("[redacted]".to_owned()),
                    text if variable.name == "database_url" => Some(redact_url(text)),
                    text => Some(text.to_owned()),
                };
                Some(Shown {
                    name: variable.name,
                    value,
                    origin: found.origin.to_string(),
                })
            })
            .collect()
    }

    /// Checks every setting.
    ///
    /// # Errors
    /// All that is wrong, not only the first.
    pub fn check(&self, mode: Mode) -> Result<Config, ConfigErrors> {
        let mut checker = Checker {
            settings: self,
            errors: Vec::new(),
        };
        let config = checker.config(mode);
        if config.limit_body_bytes < config.limit_event_bytes {
            checker.errors.push(format!(
                "limit_body_bytes ({}) is smaller than limit_event_bytes ({})",
                checker.origin("limit_body_bytes"),
                checker.origin("limit_event_bytes"),
            ));
        }
        if config.limit_bodies_bytes < config.limit_body_bytes {
            checker.errors.push(format!(
                "limit_bodies_bytes ({}) is smaller than limit_body_bytes ({})",
                checker.origin("limit_bodies_bytes"),
                checker.origin("limit_body_bytes"),
            ));
        }
        if config.admin_key.is_some() && config.admin_key == config.client_key {
            checker
                .errors
                .push("admin_key and client_key are the same key".to_owned());
        }
        if checker.errors.is_empty() {
            Ok(config)
        } else {
            Err(ConfigErrors(checker.errors))
        }
    }
}

/// Takes settings one after the other and collects what is wrong with them.
struct Checker<'a> {
    settings: &'a Settings,
    errors: Vec<String>,
}

impl Checker<'_> {
    fn origin(&self, name: &str) -> String {
        self.settings
            .found
            .get(name)
            .map_or_else(String::new, |found| found.origin.to_string())
    }

    /// The setting as `parse` reads it. After an error the value is of no use, and the error keeps
    /// it from being used.
    fn take<T: Default>(
        &mut self,
        name: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> T {
        let Some(found) = self.settings.found.get(name) else {
            self.errors.push(format!("{name} is no setting"));
            return T::default();
        };
        parse(found.text.trim()).unwrap_or_else(|reason| {
            self.errors
                .push(format!("{name} ({}): {reason}", found.origin));
            T::default()
        })
    }

    fn number<T>(&mut self, name: &'static str, least: u64, most: u64) -> T
    where
        T: Default + TryFrom<u64>,
    {
        self.take(name, |text| parse::number(text, least, most))
    }

    fn bytes<T>(&mut self, name: &'static str, least: u64, most: u64) -> T
    where
        T: Default + TryFrom<u64>,
    {
        self.take(name, |text| parse::bytes(text, least, most))
    }

    fn millis(&mut self, name: &'static str, least: u64) -> Duration {
        self.millis_up_to(name, least, 60_000)
    }

    fn millis_up_to(&mut self, name: &'static str, least: u64, most: u64) -> Duration {
        Duration::from_millis(self.number(name, least, most))
    }

    fn config(&mut self, mode: Mode) -> Config {
        const KIB: u64 = 1 << 10;
        const MIB: u64 = 1 << 20;
        const GIB: u64 = 1 << 30;
        let cors_origins = self.take("cors_origins", parse::origins);
        Config {
            listen: self.take("listen", parse::address),
            data_dir: self.take("data_dir", parse::optional_path),
            database_url: self.take("database_url", parse::database_url),
            admin_key: self.take("admin_key", |text| parse::key(text, mode)),
            client_key: self.take("client_key", |text| parse::key(text, mode)),
            log: self.take("log", parse::log_filter),
            log_format: self.take("log_format", parse::log_format),
            shutdown_timeout: self.millis("shutdown_timeout_ms", 1_000),
            trusted_proxy_hops: self.number("trusted_proxy_hops", 0, 16),
            cors_origins: match (mode, cors_origins) {
                (Mode::Demo, CorsOrigins::Listed(list)) if list.is_empty() => CorsOrigins::All,
                (_, origins) => origins,
            },
            docs: self.take("docs", parse::switch),
            metrics: self.take("metrics", parse::metrics),
            metrics_listen: self.take("metrics_listen", parse::optional_address),
            allow_unsafe_database: self.take("allow_unsafe_database", parse::switch),
            connections_max: self.number("connections_max", 2, 1_000_000),
            head_timeout: self.millis("head_timeout_ms", 100),
            body_pause: self.millis("body_pause_ms", 100),
            body_timeout: self.millis_up_to("body_timeout_ms", 100, 600_000),
            keep_alive: self.millis_up_to("keep_alive_ms", 1_000, 600_000),
            pool_size: self.number("pool_size", 1, 200),
            database_deadline: self.millis("database_deadline_ms", 100),
            ingest_shards: self.number("ingest_shards", 1, 64),
            ingest_queue_events: self.number("ingest_queue_events", 10, 10_000_000),
            ingest_queue_bytes: self.bytes("ingest_queue_bytes", MIB, 64 * GIB),
            ingest_batch_events: self.number("ingest_batch_events", 1, 10_000),
            ingest_batch_bytes: self.bytes("ingest_batch_bytes", 64 * KIB, 256 * MIB),
            limit_event_bytes: self.bytes("limit_event_bytes", KIB, 64 * MIB),
            limit_body_bytes: self.bytes("limit_body_bytes", KIB, 256 * MIB),
            limit_bodies_bytes: self.bytes("limit_bodies_bytes", MIB, 64 * GIB),
            limit_admin_body_bytes: self.bytes("limit_admin_body_bytes", KIB, 64 * MIB),
            limit_batch_events: self.number("limit_batch_events", 1, 100_000),
            limit_nesting: self.number("limit_nesting", 16, 1_000),
            limit_message_id_chars: self.number("limit_message_id_chars", 36, 1_024),
            limit_traits_bytes: self.bytes("limit_traits_bytes", KIB, 16 * MIB),
            user_cache_bytes: self.take("user_cache_bytes", |text| {
                parse::auto_or(text, |text| parse::bytes(text, MIB, 64 * GIB))
            }),
            key_requests_per_second: self.number("key_requests_per_second", 0, 1_000_000),
            address_requests_per_second: self.number("address_requests_per_second", 0, 1_000_000),
            project_events_per_second: self.number("project_events_per_second", 0, 10_000_000),
            key_misses_per_minute: self.number("key_misses_per_minute", 0, 1_000_000),
            retention_schedule: self.take("retention_schedule", parse::cron),
            rejected_retention_days: self.number("rejected_retention_days", 1, 36_500),
            campaign_failures_max: self.number("campaign_failures_max", 0, 1_000_000),
            partitions_ahead_days: self.number("partitions_ahead_days", 1, 60),
            replay_events_per_second: self.number("replay_events_per_second", 1, 1_000_000),
            dedupe_window_days: self.number("dedupe_window_days", 1, 90),
        }
    }
}

/// A database URL or connection string without its password.
pub fn redact_url(url: &str) -> String {
    connection::redacted(url)
}

/// The whole list as a file whose lines are comments, ready to be edited.
pub fn example_file() -> String {
    let mut text = String::from("# Settings of Beckon. Every line is optional.\n");
    for variable in VARIABLES {
        let bare =
            variable.default.parse::<u64>().is_ok() || matches!(variable.default, "true" | "false");
        let value = if bare {
            variable.default.to_owned()
        } else {
            format!("\"{}\"", variable.default)
        };
        let line = format!(
            "\n# {}\n# Environment: {}\n#{} = {value}\n",
            variable.help,
            variable.env(),
            variable.name
        );
        text.push_str(&line);
    }
    text
}

#[cfg(test)]
mod tests;
