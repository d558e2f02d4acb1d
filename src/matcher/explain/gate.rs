//! One campaign's gates, with what they ask and what they saw.

use std::sync::Arc;

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Map, Value};

use super::report::{Effort, ExplainedCampaign, GateReport, NearMiss};
use super::{Campaign, Gate, Moment, Steps};
use crate::rules::{Seen, TraceOutcome, TracePart, Traced};

/// The parts of a campaign's body that a trace needs.
struct Body(Map<String, Value>);

impl Body {
    fn of(campaign: &Campaign) -> Self {
        match serde_json::from_str(&campaign.json) {
            Ok(Value::Object(members)) => Self(members),
            _ => Self(Map::new()),
        }
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(Value::as_str)
    }

    fn rules(&self) -> &[Value] {
        let rules = self.0.get("rules").and_then(Value::as_array);
        rules.map_or(&[], Vec::as_slice)
    }
}

impl Moment<'_, '_> {
    /// The campaign with all of its gates.
    pub(super) fn explained(
        &self,
        campaign: &Arc<Campaign>,
        left: &Steps<'_>,
    ) -> ExplainedCampaign {
        let body = Body::of(campaign);
        let opening = self.opening(campaign, left);
        let mut explained = ExplainedCampaign {
            campaign_id: campaign.id.clone(),
            name: body.text("name").unwrap_or_default().to_owned(),
            matched: true,
            first_closed_gate: None,
            first_failing: None,
            failing_conditions: 0,
            opens_at: opening.whole,
            evaluation: Effort {
                cost: campaign.cost(),
                indexed: campaign.is_indexed(),
            },
            gates: Vec::with_capacity(Gate::ALL.len()),
        };
        for gate in Gate::ALL {
            let passes = self.gates(campaign).passes(gate) == Ok(true);
            let traced = self.traced(campaign, &body, gate);
            explained.failing_conditions =
                explained.failing_conditions.saturating_add(traced.misses);
            if explained.matched && !passes {
                explained.matched = false;
                explained.first_closed_gate = Some(gate);
                explained.first_failing = traced.first_failing.map(|part| *part);
            }
            explained.gates.push(GateReport {
                gate,
                passes,
                conditions: traced.parts,
                conditions_left_out: traced.parts_left_out,
                opens_at: opening.of(gate),
            });
        }
        explained
    }

    /// The least number of conditions that would have to turn out otherwise.
    pub(super) fn misses(&self, campaign: &Campaign) -> u32 {
        let gates = self.gates(campaign);
        let of_gate = |gate: Gate| match gate {
            Gate::Status | Gate::Schedule | Gate::Trigger => {
                u32::from(gates.passes(gate) != Ok(true))
            }
            Gate::Segments => {
                let segments = campaign.named_segments();
                let missed = segments.filter(|it| self.membership.contains(it.name) != it.wanted);
                u32::try_from(missed.count()).unwrap_or(u32::MAX)
            }
            Gate::Rules => {
                let facts = self.prepared.facts();
                let properties = facts.event.as_ref().map(|event| event.properties);
                campaign.rules().misses(facts.user.traits, properties)
            }
            Gate::Targeting => self.targeting(campaign, false).misses,
        };
        Gate::ALL
            .into_iter()
            .map(of_gate)
            .fold(0, u32::saturating_add)
    }

    fn targeting(&self, campaign: &Campaign, shows: bool) -> Traced {
        match &campaign.targeting {
            None => of_parts(Vec::new()),
            Some(condition) => {
                condition.trace(self.prepared, self.case.limits, "/targeting", shows)
            }
        }
    }

    fn traced(&self, campaign: &Campaign, body: &Body, gate: Gate) -> Traced {
        let facts = self.prepared.facts();
        match gate {
            Gate::Status => {
                let status = match body.text("status") {
                    Some("active") if !campaign.is_active => Some("quarantined"),
                    status => status,
                };
                let seen = vec![seen("status", status.map(Value::from))];
                let wanted = Value::from("active");
                of_parts(vec![part(
                    "/status",
                    "is",
                    wanted,
                    campaign.is_active,
                    seen,
                )])
            }
            Gate::Schedule => self.schedule(campaign),
            Gate::Trigger => {
                let passes = self.gates(campaign).passes(gate) == Ok(true);
                let part = match &facts.event {
                    Some(event) => {
                        let wanted = campaign.trigger.as_deref().map_or(Value::Null, Value::from);
                        let seen = vec![seen("event.name", Some(Value::from(event.name)))];
                        part("/trigger", "is", wanted, passes, seen)
                    }
                    // Whatever its trigger is, on a fetch it must not ask about an event.
                    None => part("", "mentions_no_event", Value::Null, passes, Vec::new()),
                };
                of_parts(vec![part])
            }
            Gate::Segments => self.segments(campaign),
            Gate::Rules => {
                let properties = facts.event.as_ref().map(|event| event.properties);
                let traits = facts.user.traits;
                let items = body.rules();
                campaign
                    .rules()
                    .trace(items, traits, properties, "/rules", true)
            }
            Gate::Targeting => self.targeting(campaign, true),
        }
    }

    fn schedule(&self, campaign: &Campaign) -> Traced {
        let now = self.prepared.facts().now;
        let at =
            |time: DateTime<Utc>| Value::from(time.to_rfc3339_opts(SecondsFormat::AutoSi, true));
        let bound = |name: &str, operator: &str, bound: DateTime<Utc>, holds: bool| {
            let seen = vec![seen("now", Some(at(now)))];
            let pointer = format!("/schedule/{name}");
            part(&pointer, operator, at(bound), holds, seen)
        };
        let (start, end) = (campaign.schedule.start, campaign.schedule.end);
        let start = start.map(|start| bound("start", "not_before", start, start <= now));
        let end = end.map(|end| bound("end", "before", end, now < end));
        of_parts(start.into_iter().chain(end).collect())
    }

    fn segments(&self, campaign: &Campaign) -> Traced {
        let named = campaign.named_segments();
        let parts = named.map(|segment| {
            let is_in = self.membership.contains(segment.name);
            let is_known = self.case.segments.find(segment.name).is_some();
            let seen = Seen {
                path: "in_segment".to_owned(),
                value: Value::from(is_in),
                missing: !is_known,
                cut: false,
            };
            let pointer = format!("/segments/{}/{}", segment.side, segment.place);
            let holds = is_in == segment.wanted;
            let name = Value::from(segment.name);
            let has_failed = self.membership.has_failed(segment.name);
            TracePart {
                error: has_failed.then(|| "a condition of the segment failed".to_owned()),
                ..part(&pointer, segment.side, name, holds, vec![seen])
            }
        });
        of_parts(parts.collect())
    }
}

impl NearMiss {
    /// The same in short.
    pub(super) fn of(explained: &ExplainedCampaign) -> Self {
        Self {
            campaign_id: explained.campaign_id.clone(),
            name: explained.name.clone(),
            failing_conditions: explained.failing_conditions,
            first_closed_gate: explained.first_closed_gate,
            first_failing: explained.first_failing.clone(),
            opens_at: explained.opens_at,
        }
    }
}

fn seen(path: &str, value: Option<Value>) -> Seen {
    Seen {
        path: path.to_owned(),
        missing: value.is_none(),
        value: value.unwrap_or_default(),
        cut: false,
    }
}

fn part(pointer: &str, operator: &str, rule: Value, holds: bool, seen: Vec<Seen>) -> TracePart {
    TracePart {
        pointer: pointer.to_owned(),
        operator: operator.to_owned(),
        outcome: TraceOutcome::certain(holds),
        reached: true,
        error: None,
        rule: Some(rule),
        seen,
        parts: Vec::new(),
        parts_left_out: 0,
    }
}

/// Conditions that must all hold.
fn of_parts(mut parts: Vec<TracePart>) -> Traced {
    let mut misses = 0;
    let mut first_failing = None;
    for part in &mut parts {
        part.reached = misses == 0;
        if part.outcome != TraceOutcome::Holds {
            misses += 1;
            first_failing.get_or_insert_with(|| Box::new(part.clone()));
        }
    }
    Traced {
        outcome: TraceOutcome::certain(misses == 0),
        misses,
        first_failing,
        parts,
        parts_left_out: 0,
    }
}
