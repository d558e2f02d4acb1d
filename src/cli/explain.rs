//! `beckon explain`.

use std::sync::Arc;

use clap::Args;
use diesel::Connection;
use serde_json::{Map, Value};

use crate::clock::Clock;
use crate::config::Config;
use crate::error::Error;
use crate::history::{Answer, Case, Ground, Question, Source, TraitsAsOf};
use crate::ingest::decode;
use crate::matcher::{ExplainedCampaign, GateReport};
use crate::rules::{Limits, TraceOutcome, TracePart};
use crate::targeting;

use super::database::Database;
use super::settings::CommandSettings;
use super::{Exit, Failure, Outcome, keys, output};

/// How much of a condition a table shows, in characters.
const CONDITION_CHARS_MAX: usize = 160;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  beckon explain --user-id ada
  beckon explain --user-id ada --event Ordered --properties '{\"total\": 80}'
  beckon explain --event-id 01976b1e-3f2a-7c41-9d5e-0c8f6a2b7d10 --campaign-id 5f0c…
  beckon explain --user-id ada --at 2026-03-01T09:00:00Z --json

Without an event it explains a fetch of campaigns. A stored event is decided as of then: with the
traits as far as stored identify calls tell them, and with the campaigns as they were. One campaign is
shown with all of its gates, several as a list: those that match, then the nearest misses.")]
pub(super) struct ExplainArgs {
    /// The user, by the application's own id. Nobody: a newcomer of whom nothing is known.
    #[arg(long, value_name = "ID", conflicts_with_all = ["anonymous_id", "event_id"])]
    user_id: Option<String>,
    /// The user, by an anonymous id.
    #[arg(long, value_name = "ID", conflicts_with = "event_id")]
    anonymous_id: Option<String>,
    /// The name of an event that need not be stored.
    #[arg(long, value_name = "NAME", conflicts_with = "event_id")]
    event: Option<String>,
    /// Its details, a JSON object.
    #[arg(long, value_name = "JSON", requires = "event", value_parser = parse_sent)]
    properties: Option<Map<String, Value>>,
    /// Its context, a JSON object.
    #[arg(long, value_name = "JSON", requires = "event", value_parser = parse_sent)]
    context: Option<Map<String, Value>>,
    /// When it happened, in RFC 3339.
    #[arg(long, value_name = "TIME", requires = "event")]
    timestamp: Option<String>,
    /// The id of a stored event.
    #[arg(long, value_name = "ID")]
    event_id: Option<String>,
    /// One campaign, whatever its status; else all live ones.
    #[arg(long, value_name = "ID")]
    campaign_id: Option<String>,
    /// The moment of the decision, in RFC 3339; now, if left out.
    #[arg(long, value_name = "TIME", conflicts_with = "event_id")]
    at: Option<String>,
    /// How many campaigns are shown.
    #[arg(long, default_value_t = 20, value_name = "COUNT",
          value_parser = clap::value_parser!(u32).range(1..=1_000))]
    limit: u32,
    /// The project, by name.
    #[arg(long, default_value = "default", value_name = "NAME")]
    project: String,
    /// Print one JSON document, with all gates of each campaign.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    pub(super) settings: CommandSettings,
}

/// What an application would send, which ingest mends where no parser reads it.
fn parse_sent(text: &str) -> Result<Map<String, Value>, String> {
    parse_object(decode::mended(text.as_bytes()).as_deref().unwrap_or(text))
}

pub(super) fn parse_object(text: &str) -> Result<Map<String, Value>, String> {
    match serde_json::from_str(text) {
        Ok(Value::Object(members)) => Ok(members),
        Ok(_) => Err("it must be a JSON object".to_owned()),
        Err(error) => Err(format!("it must be a JSON object: {error}")),
    }
}

impl ExplainArgs {
    /// The question as the API takes it.
    fn body(&self) -> Map<String, Value> {
        let text = |text: &Option<String>| text.as_deref().map(Value::from);
        let object = |members: &Option<Map<String, Value>>| members.clone().map(Value::Object);
        let members = |members: Vec<(&str, Option<Value>)>| -> Map<String, Value> {
            let given = members.into_iter();
            given
                .filter_map(|(name, value)| Some((name.to_owned(), value?)))
                .collect()
        };
        let event = self.event.is_some().then(|| {
            Value::Object(members(vec![
                ("name", text(&self.event)),
                ("properties", object(&self.properties)),
                ("context", object(&self.context)),
                ("timestamp", text(&self.timestamp)),
            ]))
        });
        members(vec![
            ("user_id", text(&self.user_id)),
            ("anonymous_id", text(&self.anonymous_id)),
            ("event", event),
            ("event_id", text(&self.event_id)),
            ("campaign_id", text(&self.campaign_id)),
            ("at", text(&self.at)),
            ("limit", Some(Value::from(self.limit))),
        ])
    }
}

pub(super) fn run(config: &Config, arguments: &ExplainArgs) -> Outcome {
    let question = Question::parse(&arguments.body()).map_err(refused)?;
    let database = Database::for_command(config)?;
    let mut connection = database.connect_migrated()?;
    let project = keys::find_project(&mut connection, &arguments.project)?;
    let limits = Limits::default();
    let snapshot = targeting::load_snapshot(&mut connection, project, &limits)?;
    let ground = Ground {
        project,
        snapshot: Arc::new(snapshot.unwrap_or_default()),
        limits: limits.clone(),
        now: Clock::system().now(),
    };
    let case = connection.transaction(|connection| Case::load(connection, &ground, &question))?;
    drop(connection);
    database.stop()?;
    let answer = case.explain(&limits, None);
    if arguments.json {
        output::json(&answer);
    } else {
        print(&answer, arguments.campaign_id.is_some());
    }
    Ok(Exit::Done)
}

/// A question that is wrong is a wrong command line.
pub(super) fn refused(error: Error) -> Failure {
    match error {
        Error::Validation { fields, .. } => {
            let reasons: Vec<String> = fields.into_iter().map(|field| field.msg).collect();
            Failure::usage(reasons.join("; "))
        }
        other => Failure::from(other),
    }
}

fn print(answer: &Answer, is_one: bool) {
    let event = answer.event.as_ref();
    let event = event.map_or("a fetch".to_owned(), |event| {
        format!("event {}", shown(&event.name))
    });
    let user = match (answer.user.known, answer.user.id.as_str()) {
        (true, id) => format!("user {}", shown(id)),
        (false, "") => "a newcomer".to_owned(),
        (false, id) => format!("newcomer {}", shown(id)),
    };
    output::line(format_args!(
        "{user}, {event}, at {}",
        answer.as_of.at.to_rfc3339()
    ));
    for remark in remarks(answer) {
        output::line(remark);
    }
    let explanation = &answer.explanation;
    if is_one {
        for campaign in &explanation.campaigns {
            print_tree(campaign);
        }
        return;
    }
    let (summary, closed) = (&explanation.summary, &explanation.summary.first_closed);
    output::line(format_args!(
        "{} of {} campaigns match; the others fail first at status {}, schedule {}, trigger {}, \
         segments {}, rules {}, targeting {}",
        summary.matched,
        summary.campaigns,
        closed.status,
        closed.schedule,
        closed.trigger,
        closed.segments,
        closed.rules,
        closed.targeting
    ));
    let rows: Vec<Vec<String>> = explanation.campaigns.iter().map(row).collect();
    if !rows.is_empty() {
        let headings = [
            "MATCHES",
            "CAMPAIGN",
            "NAME",
            "GATE",
            "MISSES",
            "STEPS",
            "FIRST IN THE WAY",
            "OPENS AT",
        ];
        output::table(&headings, &rows);
    }
    if explanation
        .campaigns
        .iter()
        .any(|it| !it.evaluation.indexed)
    {
        output::line("* the index is of no use: evaluated at each event of its trigger");
    }
}

/// What the answer rests on, where that is not the present.
fn remarks(answer: &Answer) -> Vec<String> {
    let mut remarks = Vec::new();
    let (traits, campaigns) = (&answer.as_of.traits, &answer.as_of.campaigns);
    if traits.source == Source::History {
        remarks.push(traits_remark(traits));
    }
    if campaigns.source == Source::History {
        remarks.push("campaigns: as they were then; segments: as they are now".to_owned());
    }
    let failed = answer.explanation.failed_segments.iter();
    let failed: Vec<&str> = failed.map(|segment| segment.name.as_str()).collect();
    if !failed.is_empty() {
        let names = shown(&failed.join(", "));
        remarks.push(format!(
            "segments with nobody in them, since a condition failed: {names}"
        ));
    }
    remarks
}

/// What rebuilt traits rest on, with every reason for which they are not certain.
fn traits_remark(traits: &TraitsAsOf) -> String {
    let calls = traits.identify_calls;
    let mut remark = format!("traits: rebuilt from {calls} stored identify calls");
    if !traits.certain {
        remark.push_str(", not certain");
    }
    if traits.truncated {
        remark.push_str("; not all calls were read");
    }
    if traits.older_than_history {
        remark.push_str("; the user is older than the oldest event that is kept");
    }
    if !traits.unexplained.is_empty() {
        let names = shown(&traits.unexplained.join(", "));
        remark.push_str(&format!("; no stored call explains {names}"));
    }
    if !traits.set_later.is_empty() {
        let names = shown(&traits.set_later.join(", "));
        remark.push_str(&format!("; set later only: {names}"));
    }
    if traits.imported {
        remark.push_str(" (imported: an import may have brought other values)");
    }
    if traits.merged_people > 0 {
        let people = traits.merged_people;
        remark.push_str(&format!("; with the calls of {people} merged people"));
    }
    remark
}

fn row(campaign: &ExplainedCampaign) -> Vec<String> {
    let gate = campaign.first_closed_gate.map_or("", |gate| gate.as_str());
    let misses = match campaign.failing_conditions {
        0 => String::new(),
        count => count.to_string(),
    };
    let first = campaign
        .first_failing
        .as_ref()
        .map(condition)
        .unwrap_or_default();
    vec![
        if campaign.matched { "yes" } else { "no" }.to_owned(),
        shown(&campaign.campaign_id),
        shown(&campaign.name),
        gate.to_owned(),
        misses,
        effort(campaign),
        first,
        campaign
            .opens_at
            .map(|at| at.to_rfc3339())
            .unwrap_or_default(),
    ]
}

/// The most steps that an evaluation takes, marked where the index is of no use.
fn effort(campaign: &ExplainedCampaign) -> String {
    let mark = if campaign.evaluation.indexed { "" } else { "*" };
    format!("{}{mark}", campaign.evaluation.cost)
}

fn print_tree(campaign: &ExplainedCampaign) {
    let answer = if campaign.matched {
        "matches"
    } else {
        "does not match"
    };
    output::line(format_args!(
        "{} {}: {answer}",
        shown(&campaign.campaign_id),
        shown(&campaign.name)
    ));
    let index = if campaign.evaluation.indexed {
        "indexed"
    } else {
        "not indexed: evaluated at each event of its trigger"
    };
    output::line(format_args!(
        "  at most {} steps, {index}",
        campaign.evaluation.cost
    ));
    for GateReport {
        gate,
        passes,
        conditions,
        opens_at,
        ..
    } in &campaign.gates
    {
        let word = if *passes { "yes" } else { "no" };
        let opens = opens_at.map(|at| format!("  (opens at {})", at.to_rfc3339()));
        let opens = opens.unwrap_or_default();
        output::line(format_args!("  {:<10} {word}{opens}", gate.as_str()));
        for condition in conditions {
            print_part(condition, 2);
        }
    }
    if let Some(at) = campaign.opens_at {
        output::line(format_args!("  it would open at {}", at.to_rfc3339()));
    }
}

/// Depth is bounded with the depth of rules.
fn print_part(part: &TracePart, depth: usize) {
    let indent = "  ".repeat(depth);
    let outcome = match part.outcome {
        TraceOutcome::Holds => "yes  ",
        TraceOutcome::DoesNotHold => "no   ",
        TraceOutcome::Fails => "fails",
    };
    let unreached = if part.reached { "" } else { "  (not reached)" };
    if part.parts.is_empty() {
        output::line(format_args!(
            "{indent}{outcome} {}{unreached}",
            condition(part)
        ));
    } else {
        output::line(format_args!(
            "{indent}{outcome} {}{unreached}",
            part.operator
        ));
    }
    for inner in &part.parts {
        print_part(inner, depth + 1);
    }
    if part.parts_left_out > 0 {
        output::line(format_args!("{indent}  … and {} more", part.parts_left_out));
    }
}

/// A condition and what it saw, on one line.
fn condition(part: &TracePart) -> String {
    let rule = match &part.rule {
        None | Some(Value::Null) => part.operator.to_string(),
        Some(rule) if part.operator == "is" => format!("is {rule}"),
        Some(rule @ Value::String(_)) => format!("{} {rule}", part.operator),
        Some(rule) => rule.to_string(),
    };
    let mut text = format!("{} {rule}", part.pointer);
    for (index, seen) in part.seen.iter().enumerate() {
        text.push_str(if index == 0 { "; saw " } else { ", " });
        let value = if seen.missing {
            "nothing".to_owned()
        } else {
            seen.value.to_string()
        };
        text.push_str(&format!("{} = {value}", seen.path));
    }
    if let Some(error) = &part.error {
        text.push_str(&format!("; {error}"));
    }
    shown(text.trim())
}

/// Fit for one line of a terminal.
fn shown(text: &str) -> String {
    let mut letters = text.chars();
    let begin: String = letters.by_ref().take(CONDITION_CHARS_MAX).collect();
    let more = if letters.next().is_some() { "…" } else { "" };
    output::printable(&begin) + more
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_why_traits_are_not_certain_is_said() {
        let certain = TraitsAsOf {
            source: Source::History,
            identify_calls: 2,
            ..TraitsAsOf::CURRENT
        };
        let rebuilt = "traits: rebuilt from 2 stored identify calls";
        assert_eq!(traits_remark(&certain), rebuilt);
        let uncertain = TraitsAsOf {
            certain: false,
            truncated: true,
            older_than_history: true,
            unexplained: vec!["plan".to_owned()],
            set_later: vec!["city".to_owned(), "seats".to_owned()],
            imported: true,
            merged_people: 3,
            ..certain
        };
        let reasons = "not all calls were read; the user is older than the oldest event that is kept; \
                       no stored call explains plan; set later only: city, seats (imported: an import \
                       may have brought other values); with the calls of 3 merged people";
        assert_eq!(
            traits_remark(&uncertain),
            format!("{rebuilt}, not certain; {reasons}")
        );
    }
}
