//! `beckon rejected`: what was refused for good, and another try after a fix.
//!
//! Lists read the database. A replay decides and writes as a server does, so it joins the servers
//! of the database as a node for as long as it takes: they notice it and stop trusting what they
//! remember of people.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::rt::System;
use chrono::{DateTime, NaiveDate, Utc};
use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use serde_json::{Value, json};

use crate::config::{Config, Mode};
use crate::error::Code;
use crate::http::AppState;
use crate::ingest::replay::{REPLAYED_MAX, ReplayOutcome, Replayed, Replayer};
use crate::model::ProjectId;
use crate::store::rejected::{self, ListedRejection, RejectedFilter, StoredRejection};

use super::compose::compose;
use super::database::Database;
use super::settings::CommandSettings;
use super::{Exit, Failure, Outcome, keys, output};

/// How long joining the servers of the database may take.
const JOIN_BOUND: Duration = Duration::from_secs(15);

/// How long ingest may take to write what waits, once every replay is answered.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// How much of a reason a table shows, in characters.
const REASON_CHARS_MAX: usize = 60;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  beckon rejected list --replayed no
  beckon rejected show 17
  beckon rejected replay 17 18
  beckon rejected replay --code traits_too_large --from 2026-03-01

A replay decodes the event as it was received, under the limits of these settings, and stores it as
if its client had sent it again: with its own message id and the time at which it happened. Those
that are still refused stay as they are; the exit code is then 1. Running servers may go on; while a
replay runs they read people from the database instead of from memory.")]
pub(super) struct RejectedArgs {
    #[command(subcommand)]
    action: Action,
    /// The project, by name.
    #[arg(long, global = true, default_value = "default", value_name = "NAME")]
    project: String,
    /// Print one JSON document.
    #[arg(long, global = true)]
    json: bool,
    #[command(flatten)]
    pub(super) settings: CommandSettings,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List rejected events, newest first, without their payloads.
    List {
        #[command(flatten)]
        filter: FilterArgs,
        /// Only those of which a replay was stored, or was not.
        #[arg(long, value_enum, value_name = "yes|no")]
        replayed: Option<YesNo>,
        /// How many at most.
        #[arg(long, default_value_t = 50, value_name = "COUNT",
              value_parser = clap::value_parser!(u32).range(1..=10_000))]
        limit: u32,
    },
    /// Show a rejected event with its payload.
    Show {
        /// Its number in the list.
        id: i64,
    },
    /// Send rejected events through ingest again, oldest first.
    Replay {
        /// Their numbers in the list.
        #[arg(value_name = "ID", conflicts_with_all = ["all", "code", "from", "to", "message_id"])]
        ids: Vec<i64>,
        #[command(flatten)]
        filter: FilterArgs,
        /// All of which no replay was stored.
        #[arg(long)]
        all: bool,
    },
}

#[derive(Debug, Args)]
struct FilterArgs {
    /// Only those of this code, as in `invalid_field`.
    #[arg(long, value_name = "CODE", value_parser = parse_code)]
    code: Option<Code>,
    /// Only those received then or later: a day (2026-03-01) or a time in RFC 3339.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    from: Option<DateTime<Utc>>,
    /// Only those received before.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    to: Option<DateTime<Utc>>,
    /// Only those with this id of the call.
    #[arg(long, value_name = "ID")]
    message_id: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum YesNo {
    Yes,
    No,
}

impl FilterArgs {
    fn is_empty(&self) -> bool {
        self.code.is_none() && self.from.is_none() && self.to.is_none() && self.message_id.is_none()
    }

    fn filter(&self, replayed: Option<bool>) -> RejectedFilter {
        RejectedFilter {
            code: self.code.map(Code::as_str),
            from: self.from,
            to: self.to,
            message_id: self.message_id.clone(),
            replayed,
        }
    }
}

fn parse_code(text: &str) -> Result<Code, String> {
    let known = Code::ALL.into_iter().find(|code| code.as_str() == text);
    known.ok_or_else(|| "it is none of the codes that answers have".to_owned())
}

pub(super) fn parse_time(text: &str) -> Result<DateTime<Utc>, String> {
    let day = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok();
    day.and_then(|day| day.and_hms_opt(0, 0, 0))
        .map(|time| time.and_utc())
        .or_else(|| Some(DateTime::parse_from_rfc3339(text).ok()?.to_utc()))
        .ok_or_else(|| "it must be as 2026-03-01 or 2026-03-01T12:00:00Z".to_owned())
}

pub(super) fn run(config: &Config, arguments: &RejectedArgs) -> Outcome {
    let database = Database::for_command(config)?;
    let mut connection = database.connect_migrated()?;
    let project = keys::find_project(&mut connection, &arguments.project)?;
    let json = arguments.json;
    let exit = match &arguments.action {
        Action::List {
            filter,
            replayed,
            limit,
        } => {
            let filter = filter.filter(replayed.map(|word| word == YesNo::Yes));
            let limit = i64::from(*limit);
            let rows = rejected::list(&mut connection, project, &filter, None, limit)?;
            print_list(&rows, json);
            Exit::Done
        }
        Action::Show { id } => {
            let found = rejected::find(&mut connection, project, *id)?;
            let missing =
                || Failure::new(format!("{} has no rejected event {id}", arguments.project));
            print_one(&found.ok_or_else(missing)?, json);
            Exit::Done
        }
        Action::Replay { ids, filter, all } => {
            let what = match (ids.as_slice(), filter.is_empty(), all) {
                ([], true, false) => {
                    let reason = "say which: numbers, a filter, or --all";
                    return Err(Failure::usage(reason));
                }
                ([], _, _) => What::Filter(filter.filter(None)),
                (ids, _, _) => What::Ids(ids.to_vec()),
            };
            drop(connection);
            let replayed = replay(config, &database.url, project, what)?;
            let exit = print_replayed(&replayed, json);
            database.stop()?;
            return Ok(exit);
        }
    };
    drop(connection);
    database.stop()?;
    Ok(exit)
}

enum What {
    Ids(Vec<i64>),
    Filter(RejectedFilter),
}

fn replay(
    config: &Config,
    url: &str,
    project: ProjectId,
    what: What,
) -> Result<Vec<Replayed>, Failure> {
    let state = compose(config, url, Mode::Normal)?;
    let hub = state.targeting.start()?;
    let replayed = System::new().block_on(replay_all(&state, project, what));
    state.ingest.close(FLUSH_TIMEOUT);
    hub.stop();
    replayed
}

async fn replay_all(
    state: &AppState,
    project: ProjectId,
    what: What,
) -> Result<Vec<Replayed>, Failure> {
    let joined_by = Instant::now() + JOIN_BOUND;
    while !state.targeting.is_ready() {
        if Instant::now() >= joined_by {
            return Err(Failure::new("the database did not answer in time"));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let replayer = Replayer {
        ingest: state.ingest.clone(),
        store: state.store.clone(),
        limits: state.settings.decode.clone(),
        clock: state.clock.clone(),
        project,
        actor: Arc::from("cli"),
        request_id: None,
    };
    let mut replayed = Vec::new();
    match what {
        What::Ids(ids) => {
            for id in ids {
                let one = replayer.one(id).await;
                replayed.push(one.map_err(|error| failure(&error, &format!("{id}: ")))?);
            }
        }
        What::Filter(filter) => {
            let mut after = None;
            loop {
                let page = replayer.next(filter.clone(), after, REPLAYED_MAX).await;
                let page = page.map_err(|error| failure(&error, ""))?;
                replayed.extend(page.replayed);
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
        }
    }
    Ok(replayed)
}

fn failure(error: &crate::error::Error, what: &str) -> Failure {
    Failure::new(format!(
        "{what}{error}; what was replayed before stays stored, and it can be run again"
    ))
}

fn print_list(rows: &[ListedRejection], json: bool) {
    if json {
        output::json(&rows);
        return;
    }
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            let time = |time: DateTime<Utc>| time.format("%F %T").to_string();
            vec![
                row.id.to_string(),
                time(row.received_at),
                row.code.clone(),
                row.route.clone().unwrap_or_default(),
                row.payload_bytes.to_string(),
                row.replayed_at.map(time).unwrap_or_default(),
                shown(row.message_id.as_deref().unwrap_or_default()),
                shown(&row.message),
            ]
        })
        .collect();
    let headings = [
        "ID",
        "RECEIVED",
        "CODE",
        "ROUTE",
        "BYTES",
        "REPLAYED",
        "MESSAGE ID",
        "REASON",
    ];
    output::table(&headings, &cells);
}

/// The beginning of a client's text; a control character must not reach the terminal.
fn shown(text: &str) -> String {
    let short: String = text.chars().take(REASON_CHARS_MAX).collect();
    let dots = if short.len() < text.len() { "…" } else { "" };
    format!("{}{dots}", output::printable(&short))
}

#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    head: &'a ListedRejection,
    fields: Value,
    payload: Value,
    context: Option<Value>,
}

fn print_one(row: &StoredRejection, json: bool) {
    let parsed = |text: &str| serde_json::from_str(text).unwrap_or_else(|_| json!(text));
    let shown = Shown {
        head: &row.head,
        fields: parsed(&row.content.fields),
        payload: parsed(&row.content.payload),
        context: row.content.context.as_deref().map(parsed),
    };
    if json {
        output::json(&shown);
        return;
    }
    let Ok(Value::Object(members)) = serde_json::to_value(&shown) else {
        return;
    };
    for (name, value) in members {
        let text = match value {
            Value::Null => continue,
            Value::String(text) if name != "payload" => output::printable(&text),
            other => output::printable(&other.to_string()),
        };
        output::line(format_args!("{name}: {text}"));
    }
}

#[derive(Serialize)]
struct Said<'a> {
    id: i64,
    outcome: &'static str,
    event_id: Option<String>,
    code: Option<&'static str>,
    message: Option<&'a str>,
}

impl<'a> From<&'a Replayed> for Said<'a> {
    fn from(replayed: &'a Replayed) -> Self {
        let (outcome, event, refusal) = match &replayed.outcome {
            ReplayOutcome::Stored(event) => ("stored", Some(event), None),
            ReplayOutcome::Duplicate(event) => ("duplicate", Some(event), None),
            ReplayOutcome::Refused { code, message, .. } => {
                ("refused", None, Some((code.as_str(), message.as_str())))
            }
        };
        Self {
            id: replayed.id,
            outcome,
            event_id: event.map(|event| event.0.to_string()),
            code: refusal.map(|(code, _)| code),
            message: refusal.map(|(_, message)| message),
        }
    }
}

/// Tells what became of each; a refusal makes the command fail.
fn print_replayed(replayed: &[Replayed], json: bool) -> Exit {
    let said: Vec<Said<'_>> = replayed.iter().map(Said::from).collect();
    let count = |outcome| said.iter().filter(|said| said.outcome == outcome).count();
    let (stored, duplicate, refused) = (count("stored"), count("duplicate"), count("refused"));
    if json {
        output::json(&json!({
            "stored": stored, "duplicate": duplicate, "refused": refused, "results": said,
        }));
    } else {
        for said in said.iter().filter(|said| said.outcome == "refused") {
            output::line(format_args!(
                "{} is still refused: {} ({})",
                said.id,
                shown(said.message.unwrap_or_default()),
                said.code.unwrap_or_default()
            ));
        }
        output::line(format_args!(
            "{stored} stored, {duplicate} stored before, {refused} still refused"
        ));
    }
    if refused > 0 {
        Exit::Failed
    } else {
        Exit::Done
    }
}
