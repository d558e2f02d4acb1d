//! `beckon replay`.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use clap::Args;
use serde_json::{Map, Value};

use crate::clock::Clock;
use crate::config::Config;
use crate::history::replay::{Plan, Progress, Report, Stage, replay};
use crate::rules::Limits;
use crate::targeting;

use super::database::Database;
use super::explain::{parse_object, refused};
use super::rejected::parse_time;
use super::settings::CommandSettings;
use super::{Exit, Failure, Outcome, keys, output};

/// The largest draft that is read, in bytes.
const DRAFT_BYTES_MAX: u64 = 1024 * 1024;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  beckon replay --campaign draft.json
  beckon replay --campaign draft.json --from 2026-03-01 --to 2026-03-08 --json

The stored events of the draft's trigger are decided as they were when they came: at the moment they
were received, with the traits of then as far as stored identify calls tell. Nothing is changed, and
nothing is sent. To send rejected events through ingest again, see `beckon rejected replay`.")]
pub(super) struct ReplayArgs {
    /// The draft: a campaign's JSON object, as it would be saved. It counts as active.
    #[arg(long, value_name = "FILE")]
    campaign: PathBuf,
    /// Events received then or later: a day (2026-03-01) or a time in RFC 3339; seven days before
    /// the end, if left out.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    from: Option<DateTime<Utc>>,
    /// Events received before; now, if left out.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    to: Option<DateTime<Utc>>,
    /// Let the draft's schedule count; else it is as if it had none.
    #[arg(long)]
    keep_schedule: bool,
    /// The project, by name.
    #[arg(long, default_value = "default", value_name = "NAME")]
    project: String,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    pub(super) settings: CommandSettings,
}

impl ReplayArgs {
    /// The plan as the API takes it.
    fn body(&self) -> Result<Map<String, Value>, Failure> {
        let wrong =
            |reason: String| Failure::usage(format!("{}: {reason}", self.campaign.display()));
        let length = std::fs::metadata(&self.campaign).map_err(|error| wrong(error.to_string()))?;
        if length.len() > DRAFT_BYTES_MAX {
            return Err(wrong(format!(
                "a draft has at most {DRAFT_BYTES_MAX} bytes"
            )));
        }
        let text = std::fs::read_to_string(&self.campaign);
        let text = text.map_err(|error| wrong(error.to_string()))?;
        let draft = parse_object(&text).map_err(wrong)?;
        let time = |time: Option<DateTime<Utc>>| time.map(|time| time.to_rfc3339());
        let members = [
            ("campaign", Value::Object(draft)),
            ("from", time(self.from).map_or(Value::Null, Value::from)),
            ("to", time(self.to).map_or(Value::Null, Value::from)),
            ("keep_schedule", Value::from(self.keep_schedule)),
        ];
        Ok(members
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect())
    }
}

pub(super) fn run(config: &Config, arguments: &ReplayArgs) -> Outcome {
    let limits = Limits::default();
    let plan = Plan::parse(&arguments.body()?, Clock::system().now(), &limits).map_err(refused)?;
    let database = Database::for_command(config)?;
    let mut connection = database.connect_migrated()?;
    let project = keys::find_project(&mut connection, &arguments.project)?;
    let snapshot = targeting::load_snapshot(&mut connection, project, &limits)?;
    let stage = Stage {
        project,
        snapshot: Arc::new(snapshot.unwrap_or_default()),
        limits,
        events_per_second: config.replay_events_per_second,
    };
    let report = replay(&mut connection, &stage, plan, |progress| {
        tell(&progress);
        ControlFlow::Continue(())
    })?;
    drop(connection);
    database.stop()?;
    let report = report.ok_or_else(|| Failure::new("the replay was ended"))?;
    if arguments.json {
        output::json(&report);
    } else {
        print(&report);
    }
    Ok(Exit::Done)
}

fn tell(progress: &Progress) {
    output::note(format_args!(
        "{:5.1} %  {} events, {} matches of {} people",
        progress.done * 100.0,
        progress.events,
        progress.matches,
        progress.users
    ));
}

fn print(report: &Report) {
    let Report {
        events,
        matches,
        users,
        first_closed: closed,
        traits,
        ..
    } = report;
    let more = if report.users_capped { " or more" } else { "" };
    output::line(format_args!(
        "{matches} of {events} events of {:?} match, of {users}{more} people",
        report.trigger
    ));
    output::line(format_args!(
        "the others fail first at schedule {}, segments {}, rules {}, targeting {}; {} conditions \
         failed",
        closed.schedule, closed.segments, closed.rules, closed.targeting, report.rule_errors
    ));
    output::line(format_args!(
        "traits: unchanged since for {} events, rebuilt for {}, uncertain for {}",
        traits.unchanged, traits.rebuilt, traits.uncertain
    ));
    let days: Vec<Vec<String>> = report
        .by_day
        .iter()
        .map(|day| {
            vec![
                day.day.to_string(),
                day.events.to_string(),
                day.matches.to_string(),
            ]
        })
        .collect();
    section("", &["DAY", "EVENTS", "MATCHES"], &days);
    let overlap: Vec<Vec<String>> = report
        .live_overlap
        .iter()
        .map(|live| {
            vec![
                live.campaign_id.clone(),
                live.events.to_string(),
                live.users.to_string(),
            ]
        })
        .collect();
    let headings = ["LIVE CAMPAIGN", "EVENTS", "PEOPLE"];
    section(
        "of these, live campaigns match as well:",
        &headings,
        &overlap,
    );
    let sample: Vec<Vec<String>> = report
        .sample
        .iter()
        .map(|it| {
            let user = it.user_id.as_deref().or(it.anonymous_id.as_deref());
            let user = output::printable(user.unwrap_or_default());
            vec![it.event_id.to_string(), user, it.received_at.to_rfc3339()]
        })
        .collect();
    section(
        "some of the matches:",
        &["EVENT", "USER", "RECEIVED"],
        &sample,
    );
}

fn section(title: &str, headings: &[&str], rows: &[Vec<String>]) {
    if rows.is_empty() {
        return;
    }
    output::line("");
    if !title.is_empty() {
        output::line(title);
    }
    output::table(headings, rows);
}
