//! The matcher against its slow, obvious twin: every gate of every campaign, read from the object
//! the admin wrote, without trigger index, compiled gates or remembered memberships.

use std::collections::HashMap;
use std::sync::Arc;

use beckon::matcher::{Campaign, CampaignRow, Snapshot};
use beckon::rules::{
    Condition, EventFacts, Facts, FactsArena, Limits, Object, RuleList, UserFacts,
};
use beckon::segments::{Segment, Segments};
use chrono::{DateTime, TimeDelta, Utc};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::support::property::{cases, run};

fn now() -> DateTime<Utc> {
    DateTime::parse_from_rfc3339("2026-03-01T12:00:00Z")
        .unwrap()
        .to_utc()
}

/// One of these values, cloned.
fn one_of(values: Vec<Value>) -> impl Strategy<Value = Value> {
    prop::sample::select(values)
}

fn targeting() -> impl Strategy<Value = Value> {
    one_of(vec![
        Value::Null,
        json!(true),
        json!({"==": [{"var": "user.traits.plan"}, "pro"]}),
        json!({">": [{"var": "user.traits.age"}, 30]}),
        json!({"!": [{">": [{"var": "user.traits.age"}, 30]}]}),
        json!({"==": [{"var": "event.properties.sku"}, "A"]}),
        json!({"!": [{"exists": "event"}]}),
        json!({"in_segment": "adults"}),
        json!({"!": [{"in_segment": "Pro adults"}]}),
        json!({"and": [{"in_segment": "s-pro"}, {"in_segment": "adults"}]}),
    ])
}

fn rules() -> impl Strategy<Value = Value> {
    one_of(vec![
        json!([]),
        json!([{"type": "attribute", "field": "plan", "operator": "==", "value": "pro"}]),
        json!([{"type": "attribute", "field": "age", "operator": ">=", "value": "18"}]),
        json!([{"type": "event", "field": "sku", "operator": "contains", "value": "A"}]),
        json!([{"type": "event", "field": "unknown", "operator": "==", "value": ""}]),
    ])
}

fn segment_names() -> impl Strategy<Value = Value> {
    let names = prop::sample::subsequence(vec!["adults", "s-pro", "nobody knows"], 0..=2);
    names.prop_map(|names| json!(names))
}

fn campaign() -> impl Strategy<Value = Value> {
    let status = one_of(vec![
        json!("active"),
        json!("active"),
        json!("paused"),
        Value::Null,
    ]);
    let trigger = one_of(vec![json!("a"), json!("b"), Value::Null]);
    let bound = prop::option::of(-2_i64..3);
    (
        status,
        trigger,
        (bound.clone(), bound),
        (segment_names(), segment_names()),
        rules(),
        targeting(),
        -1_i64..2,
    )
        .prop_map(
            |(status, trigger, (start, length), (include, exclude), rules, targeting, rank)| {
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

fn traits() -> impl Strategy<Value = Value> {
    let plan = one_of(vec![Value::Null, json!("pro"), json!("free")]);
    let age = one_of(vec![Value::Null, json!(17), json!(45), json!("old")]);
    (plan, age).prop_map(|(plan, age)| {
        let known = [("plan", plan), ("age", age)];
        let known = known.into_iter().filter(|(_, value)| !value.is_null());
        Value::Object(
            known
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
        )
    })
}

fn segments() -> Vec<(&'static str, Value)> {
    vec![
        (
            "s-pro",
            json!({"name": "Pro", "rules":
            [{"type": "attribute", "field": "plan", "operator": "==", "value": "pro"}]}),
        ),
        (
            "s-1",
            json!({"name": "adults", "targeting": {">=": [{"var": "user.traits.age"}, 18]}}),
        ),
        (
            "s-2",
            json!({"name": "Pro adults", "targeting":
            {"and": [{"in_segment": "adults"}, {"in_segment": "s-pro"}]}}),
        ),
    ]
}

fn object(value: &Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

struct Twin<'a> {
    user: UserFacts<'a>,
    event: Option<EventFacts<'a>>,
}

impl Twin<'_> {
    fn condition(&self, json: &Value, event: Option<EventFacts<'_>>) -> bool {
        if json.is_null() {
            return true;
        }
        let lookup = |name: &str| self.is_in(name);
        let facts = Facts {
            user: self.user,
            event,
            now: now(),
            segments: &lookup,
        };
        let condition = Condition::parse(json, &Limits::default()).unwrap();
        condition.matches(&facts).unwrap_or(false)
    }

    fn is_in(&self, reference: &str) -> bool {
        let all = segments();
        let by_id = all.iter().find(|(id, _)| *id == reference);
        let found = by_id.or_else(|| all.iter().find(|(_, body)| body["name"] == reference));
        found.is_some_and(|(_, body)| {
            let list = RuleList::parse(body.get("rules")).unwrap();
            list.matches(self.user.traits, None) && self.condition(&body["targeting"], None)
        })
    }

    fn shows(&self, body: &Value) -> bool {
        let time = |name: &str| {
            let text = body["schedule"][name].as_str()?;
            Some(DateTime::parse_from_rfc3339(text).unwrap().to_utc())
        };
        let names = |side: &str| -> Vec<String> {
            let list = body["segments"][side].as_array().unwrap();
            list.iter()
                .map(|name| name.as_str().unwrap().to_owned())
                .collect()
        };
        let list = RuleList::parse(body.get("rules")).unwrap();
        let targeting_text = body["targeting"].to_string();
        let trigger_passes = match &self.event {
            Some(event) => body["trigger"] == event.name,
            // Of the rules above, those about an event say so in these words.
            None => !list.mentions_event() && !targeting_text.contains("\"event"),
        };
        let properties = self.event.as_ref().map(|event| event.properties);
        body["status"] == "active"
            && time("start").is_none_or(|start| start <= now())
            && time("end").is_none_or(|end| now() < end)
            && trigger_passes
            && names("include").iter().all(|name| self.is_in(name))
            && !names("exclude").iter().any(|name| self.is_in(name))
            && list.matches(self.user.traits, properties)
            && self.condition(&body["targeting"], self.event)
    }
}

fn snapshot(bodies: &[Value]) -> Snapshot {
    let limits = Limits::default();
    let campaigns = bodies.iter().zip(0_i64..).map(|(body, seq)| {
        let row = CampaignRow {
            id: seq.to_string(),
            seq,
            version: 1,
            body: object(body),
            created_at: now() - TimeDelta::days(1) + TimeDelta::seconds(seq / 3),
            updated_at: None,
        };
        Arc::new(Campaign::compile(&row, &limits).unwrap())
    });
    let compiled = segments()
        .iter()
        .map(|(id, body)| Arc::new(Segment::compile(id, &object(body), &limits).unwrap()))
        .collect();
    Snapshot::new(
        1,
        campaigns.collect(),
        Segments::new(compiled),
        HashMap::new(),
    )
}

/// Best first: higher priority, then newer.
fn expected(bodies: &[Value], twin: &Twin<'_>) -> Vec<String> {
    let mut shown: Vec<usize> = (0..bodies.len())
        .filter(|&index| twin.shows(&bodies[index]))
        .collect();
    shown.sort_by_key(|&index| {
        let priority = bodies[index]["priority"].as_i64().unwrap();
        (std::cmp::Reverse(priority), std::cmp::Reverse(index))
    });
    shown.iter().map(ToString::to_string).collect()
}

fn check(
    bodies: &[Value],
    traits: &Value,
    event: Option<&(&str, Value)>,
) -> Result<(), TestCaseError> {
    let arena = FactsArena::new();
    let user = UserFacts {
        id: "u",
        traits: arena.from_value(traits),
        created_at: now() - TimeDelta::days(9),
        last_seen_at: now() - TimeDelta::days(2),
    };
    let event = event.map(|(name, properties)| EventFacts {
        name,
        properties: arena.from_value(properties),
        context: Object::EMPTY,
        timestamp: now(),
    });
    let snapshot = snapshot(bodies);
    let decision = match event {
        Some(event) => snapshot.on_event(user, event, now(), &arena),
        None => snapshot.on_fetch(user, now(), &arena),
    };
    let shown = decision.matched.iter().map(|campaign| campaign.id.clone());
    let shown: Vec<String> = shown.collect();
    prop_assert_eq!(shown, expected(bodies, &Twin { user, event }));
    Ok(())
}

#[test]
fn the_snapshot_decides_as_every_gate_of_every_campaign_would() {
    let properties = one_of(vec![json!({}), json!({"sku": "A"}), json!({"sku": "B"})]);
    let event = (prop::sample::select(vec!["a", "b", "c"]), properties);
    let strategy = (
        prop::collection::vec(campaign(), 0..25),
        traits(),
        prop::option::of(event),
    );
    run(cases(256), strategy, |(bodies, traits, event)| {
        check(&bodies, &traits, event.as_ref())
    });
}
