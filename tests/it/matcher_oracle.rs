//! The compiled matcher against a slow and obvious one: every gate of every campaign, each
//! condition evaluated by datalogic-rs alone.
//!
//! Failures are shrunk. The same again: `BECKON_SEED=… cargo test`, with the seed that is printed.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod allowed;
mod blocks;
mod explain;
mod findings;
mod generate;
mod values;

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use beckon::matcher::{Campaign, CampaignRow, Gate, Snapshot};
use beckon::rules::{
    Condition, EventFacts, Facts, FactsArena, Limits, Prepared, RuleList, UserFacts, operator_names,
};
use beckon::segments::{Segment, Segments};
use chrono::{DateTime, TimeDelta, Utc};
use generate::{object, plain_object, plain_rule, rule, rules};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::support::is_soak;
use crate::support::property::run;

fn now() -> DateTime<Utc> {
    "2026-03-01T12:00:00.123456Z".parse().unwrap()
}

/// A person and perhaps an event, as texts.
#[derive(Debug, Clone)]
struct Moment {
    traits: String,
    event: Option<(&'static str, String, String)>,
}

fn moment() -> impl Strategy<Value = Moment> {
    let name = prop::sample::select(vec!["x", "x", "x", "y", "z"]);
    let event = prop::option::weighted(0.8, (name, object(), object()));
    (object(), event).prop_map(|(traits, event)| Moment {
        traits: traits.to_string(),
        event: event
            .map(|(name, properties, context)| (name, properties.to_string(), context.to_string())),
    })
}

impl Moment {
    fn user<'a>(&'a self, arena: &'a FactsArena) -> UserFacts<'a> {
        UserFacts {
            id: "a",
            traits: arena.parse(&self.traits),
            created_at: now() - TimeDelta::days(2),
            last_seen_at: now() - TimeDelta::hours(1),
        }
    }

    fn event<'a>(&'a self, arena: &'a FactsArena) -> Option<EventFacts<'a>> {
        self.event
            .as_ref()
            .map(|(name, properties, context)| EventFacts {
                name,
                properties: arena.parse(properties),
                context: arena.parse(context),
                timestamp: now() - TimeDelta::seconds(5),
            })
    }
}

/// So much was compared: at least this in the short form, and that in a soak, where the decisions
/// of the three tests below make more than 10 million pairs together.
fn assert_met(what: &str, met: AtomicU64, short: u64, soak: u64) {
    let (met, least) = (met.into_inner(), if is_soak() { soak } else { short });
    println!("{what}: {met}");
    assert!(met >= least, "{met} {what} of {least}");
}

/// How often each operator stands in a rule.
fn count_operators(rule: &Value, counts: &mut BTreeMap<String, u64>) {
    match rule {
        Value::Array(items) => {
            for item in items {
                count_operators(item, counts);
            }
        }
        Value::Object(members) => {
            for (name, args) in members {
                *counts.entry(name.clone()).or_default() += 1;
                count_operators(args, counts);
            }
        }
        _ => {}
    }
}

#[test]
fn a_condition_answers_as_the_library_does() {
    let pairs = AtomicU64::new(0);
    let operators = Mutex::new(BTreeMap::new());
    let strategy = (
        prop::collection::vec(rule(), 12),
        prop::collection::vec(moment(), 24),
    );
    run(
        if is_soak() { 25_000 } else { 250 },
        strategy,
        |(rules, moments)| {
            for rule in &rules {
                count_operators(rule, &mut operators.lock().unwrap());
                let condition = Condition::parse(rule, &Limits::default()).unwrap();
                for moment in &moments {
                    let arena = FactsArena::new();
                    let facts = Facts {
                        user: moment.user(&arena),
                        event: moment.event(&arena),
                        now: now(),
                        segments: &|name| name == "s-a",
                    };
                    let prepared = Prepared::new(facts, &arena);
                    let library = condition.matches_by_library(&prepared);
                    let ours = condition.matches_prepared(&prepared);
                    prop_assert_eq!(ours, library, "{} on {:?}", rule, moment);
                    pairs.fetch_add(1, Ordering::Relaxed);
                }
            }
            Ok(())
        },
    );
    let operators = operators.into_inner().unwrap();
    println!("{operators:?}");
    for name in operator_names() {
        let count = operators.get(name).copied().unwrap_or_default();
        assert!(count >= 10, "{name} stood in rules {count} times");
    }
    assert_met("pairs", pairs, 72_000, 7_200_000);
}

fn names() -> impl Strategy<Value = Value> {
    let known = vec!["s-a", "s-odd", "s-both", "Named", "nobody knows"];
    prop_oneof![
        4 => Just(json!([])),
        1 => prop::sample::subsequence(known, 1..=2).prop_map(|names| json!(names)),
    ]
}

fn campaign() -> impl Strategy<Value = Value> {
    let status = prop::sample::select(vec!["active", "active", "active", "active", "paused"]);
    let trigger = prop::sample::select(vec![json!("x"), json!("x"), json!("y"), Value::Null]);
    let bound = prop::option::weighted(0.15, -2_i64..3);
    let targeting = prop_oneof![1 => Just(Value::Null), 6 => rule()];
    let gates = (names(), names(), rules(), targeting);
    (status, trigger, (bound.clone(), bound), gates, -1_i64..2).prop_map(
        |(status, trigger, (start, length), (include, exclude, rules, targeting), rank)| {
            let at = |hours: i64| (now() + TimeDelta::hours(hours)).to_rfc3339();
            let end = length.map(|hours| start.unwrap_or(0) + hours.abs() + 1);
            json!({
                "name": "c",
                "status": status,
                "trigger": trigger,
                "schedule": {"start": start.map(at), "end": end.map(at)},
                "segments": {"include": include, "exclude": exclude},
                "rules": rules,
                "targeting": targeting,
                "priority": rank,
            })
        },
    )
}

fn segments() -> Vec<(&'static str, Value)> {
    let rules = json!([{"type": "attribute", "field": "a", "operator": "!=", "value": 1}]);
    let odd = json!({"==": [{"%": [{"var": "user.traits.b"}, 2]}, 1]});
    let both = json!({"and": [{"in_segment": "s-a"}, {"!": [{"in_segment": "Named"}]}]});
    vec![
        ("s-a", json!({"name": "first", "rules": rules})),
        ("s-odd", json!({"name": "Named", "targeting": odd})),
        ("s-both", json!({"name": "both", "targeting": both})),
    ]
}

fn map(value: &Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

type ParsedSegments = HashMap<&'static str, (RuleList, Option<Condition>)>;

/// The slow matcher, for one moment.
struct Slow<'a> {
    user: UserFacts<'a>,
    event: Option<EventFacts<'a>>,
    /// The segments' conditions, parsed once for all moments.
    segments: &'a ParsedSegments,
}

impl<'a> Slow<'a> {
    fn at(moment: &'a Moment, segments: &'a ParsedSegments, arena: &'a FactsArena) -> Self {
        Slow {
            user: moment.user(arena),
            event: moment.event(arena),
            segments,
        }
    }
}

/// What the matcher under test shows then, best first.
fn shown(snapshot: &Snapshot, then: &Slow<'_>, arena: &FactsArena) -> Vec<String> {
    let decision = match then.event {
        Some(event) => snapshot.on_event(then.user, event, now(), arena),
        None => snapshot.on_fetch(then.user, now(), arena),
    };
    decision.matched.iter().map(|it| it.id.clone()).collect()
}

/// A campaign as the slow matcher takes it.
struct Parsed {
    body: Value,
    rules: RuleList,
    targeting: Option<Condition>,
}

fn condition(json: &Value) -> Option<Condition> {
    let is_there = !json.is_null();
    is_there.then(|| Condition::parse(json, &Limits::default()).unwrap())
}

impl Slow<'_> {
    fn holds(
        &self,
        condition: Option<&Condition>,
        event: Option<EventFacts<'_>>,
    ) -> Result<bool, ()> {
        let Some(condition) = condition else {
            return Ok(true);
        };
        let lookup = |name: &str| self.is_in(name);
        let facts = Facts {
            user: self.user,
            event,
            now: now(),
            segments: &lookup,
        };
        let arena = FactsArena::new();
        condition
            .matches_by_library(&Prepared::new(facts, &arena))
            .map_err(|_| ())
    }

    fn is_in(&self, reference: &str) -> bool {
        let id = match reference {
            "Named" => "s-odd",
            other => other,
        };
        self.segments.get(id).is_some_and(|(rules, targeting)| {
            rules.matches(self.user.traits, None)
                && self.holds(targeting.as_ref(), None) == Ok(true)
        })
    }

    /// The first gate that says no.
    fn first_closed(&self, campaign: &Parsed) -> Option<Gate> {
        let body = &campaign.body;
        let time = |name: &str| {
            let text = body["schedule"][name].as_str()?;
            Some(text.parse::<DateTime<Utc>>().unwrap())
        };
        let names = |side: &str| -> Vec<String> {
            let list = body["segments"][side].as_array().unwrap();
            list.iter()
                .map(|name| name.as_str().unwrap().to_owned())
                .collect()
        };
        let mentions_event = campaign.rules.mentions_event()
            || campaign
                .targeting
                .as_ref()
                .is_some_and(Condition::mentions_event);
        let trigger_passes = match &self.event {
            Some(event) => body["trigger"] == event.name,
            None => !mentions_event,
        };
        let properties = self.event.as_ref().map(|event| event.properties);
        let is_open = time("start").is_none_or(|start| start <= now())
            && time("end").is_none_or(|end| now() < end);
        let segments_pass = names("include").iter().all(|name| self.is_in(name))
            && !names("exclude").iter().any(|name| self.is_in(name));
        if body["status"] != "active" {
            Some(Gate::Status)
        } else if !is_open {
            Some(Gate::Schedule)
        } else if !trigger_passes {
            Some(Gate::Trigger)
        } else if !segments_pass {
            Some(Gate::Segments)
        } else if !campaign.rules.matches(self.user.traits, properties) {
            Some(Gate::Rules)
        } else if self.holds(campaign.targeting.as_ref(), self.event) != Ok(true) {
            Some(Gate::Targeting)
        } else {
            None
        }
    }
}

fn compiled(bodies: &[Value]) -> Vec<Arc<Campaign>> {
    let campaigns = bodies.iter().zip(0_i64..).map(|(body, seq)| {
        let row = CampaignRow {
            id: seq.to_string(),
            seq,
            version: 1,
            body: map(body),
            created_at: now() - TimeDelta::days(1) + TimeDelta::seconds(seq / 3),
            updated_at: None,
        };
        Arc::new(Campaign::compile(&row, &Limits::default()).unwrap())
    });
    campaigns.collect()
}

fn snapshot(bodies: &[Value]) -> Snapshot {
    let limits = Limits::default();
    let segments = segments()
        .iter()
        .map(|(id, body)| Arc::new(Segment::compile(id, &map(body), &limits).unwrap()))
        .collect();
    Snapshot::new(1, compiled(bodies), Segments::new(segments), HashMap::new())
}

fn parsed(bodies: &[Value]) -> Vec<Parsed> {
    let parsed = bodies.iter().map(|body| Parsed {
        body: body.clone(),
        rules: RuleList::parse(body.get("rules")).unwrap(),
        targeting: condition(&body["targeting"]),
    });
    parsed.collect()
}

fn parsed_segments() -> ParsedSegments {
    let parsed = segments().into_iter().map(|(id, body)| {
        let rules = RuleList::parse(body.get("rules")).unwrap();
        (id, (rules, condition(&body["targeting"])))
    });
    parsed.collect()
}

/// What was compared.
#[derive(Default)]
struct Met {
    /// Of a campaign and a moment.
    pairs: AtomicU64,
    /// Of a decision with what little work allows.
    allowed: AtomicU64,
    given_up: AtomicU64,
}

/// Decides all moments with both, and counts the pairs of a campaign and a moment.
fn compare(bodies: &[Value], moments: &[Moment], met: &Met) -> Result<(), TestCaseError> {
    let snapshot = snapshot(bodies);
    let parsed = parsed(bodies);
    let segments = parsed_segments();
    let mut arena = FactsArena::new();
    for moment in moments {
        arena.reset();
        let slow = Slow::at(moment, &segments, &arena);
        let mut expected = Vec::new();
        for (campaign, index) in parsed.iter().zip(0_usize..) {
            if slow.first_closed(campaign).is_none() {
                expected.push(index);
            }
        }
        expected.sort_by_key(|&index| {
            (
                Reverse(bodies[index]["priority"].as_i64().unwrap()),
                Reverse(index),
            )
        });
        let expected: Vec<String> = expected.iter().map(ToString::to_string).collect();
        let shown = shown(&snapshot, &slow, &arena);
        prop_assert_eq!(&shown, &expected, "{:?}", moment);
        allowed::compare(&snapshot, &slow, &arena, &expected, met)?;
        met.pairs.fetch_add(bodies.len() as u64, Ordering::Relaxed);
    }
    Ok(())
}

#[test]
fn few_campaigns_are_decided_as_one_by_one() {
    let met = Met::default();
    let strategy = (
        prop::collection::vec(campaign(), 0..30),
        prop::collection::vec(moment(), 12),
    );
    run(
        if is_soak() { 25_000 } else { 250 },
        strategy,
        |(bodies, moments)| compare(&bodies, &moments, &met),
    );
    assert_met("pairs", met.pairs, 20_000, 3_500_000);
    assert_met("decisions allowed", met.allowed, 20_000, 2_000_000);
    assert_met("decisions given up", met.given_up, 8_000, 800_000);
}

/// Enough campaigns for sets of several words, rare attributes, and written states.
#[test]
fn many_campaigns_are_decided_as_one_by_one() {
    let met = Met::default();
    let campaigns = prop::collection::vec(campaign(), 100..500);
    let strategy = (campaigns, prop::collection::vec(moment(), 8));
    run(
        if is_soak() { 1_000 } else { 10 },
        strategy,
        |(bodies, moments)| compare(&bodies, &moments, &met),
    );
    assert_met("pairs", met.pairs, 8_000, 2_000_000);
}

fn plain_campaign() -> impl Strategy<Value = Value> {
    (plain_rule(), -1_i64..2).prop_map(|(targeting, priority)| {
        let segments = json!({"include": [], "exclude": []});
        json!({
            "status": "active",
            "trigger": "x",
            "segments": segments,
            "targeting": targeting,
            "priority": priority,
        })
    })
}

fn plain_moment() -> impl Strategy<Value = Moment> {
    let event = prop::option::weighted(0.8, plain_object());
    (plain_object(), event).prop_map(|(traits, properties)| Moment {
        traits: traits.to_string(),
        event: properties.map(|it| ("x", it.to_string(), "{}".to_owned())),
    })
}

/// Campaigns that the index decides on alone, so many that every part of it is used.
#[test]
fn plain_campaigns_are_decided_as_one_by_one() {
    let met = Met::default();
    let strategy = (
        prop::collection::vec(plain_campaign(), 200..1_500),
        prop::collection::vec(plain_moment(), 10),
    );
    run(
        if is_soak() { 800 } else { 8 },
        strategy,
        |(bodies, moments)| compare(&bodies, &moments, &met),
    );
    assert_met("pairs", met.pairs, 16_000, 6_000_000);
}
