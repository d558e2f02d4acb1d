//! The rule compiler: whatever text is sent as a rule is refused or compiled, and what is compiled
//! gives the library's answer by every way there is.
//!
//! The input is lines of JSON: a condition, a user's traits, an event's properties, a rule list.
#![no_main]

use std::collections::HashMap;
use std::sync::Arc;

use beckon::matcher::{Campaign, CampaignRow, FindingKind, Snapshot};
use beckon::rules::{
    Condition, EventFacts, Facts, FactsArena, Limits, Object, Prepared, RuleList, UserFacts,
    mentions,
};
use beckon::segments::Segments;
use chrono::{DateTime, Utc};
use libfuzzer_sys::{Corpus, fuzz_target};
use serde_json::{Map, Value, json};

fuzz_target!(|data: &[u8]| -> Corpus {
    let Ok(text) = std::str::from_utf8(data) else {
        return Corpus::Reject;
    };
    let mut lines = text.split('\n');
    let mut line = || lines.next().unwrap_or_default();
    // The server reads bodies with this parser and its bound on nesting.
    let Ok(rule) = serde_json::from_str::<Value>(line()) else {
        return Corpus::Reject;
    };
    let (traits, properties) = (line(), line());
    let rules = serde_json::from_str::<Value>(line()).ok();
    check(&rule, traits, properties, rules);
    Corpus::Keep
});

fn check(rule: &Value, traits: &str, properties: &str, rules: Option<Value>) {
    let limits = Limits::default();
    let list = RuleList::parse(rules.as_ref());
    let Ok(condition) = Condition::parse(rule, &limits) else {
        return;
    };
    assert!(condition.cost() <= limits.max_cost);
    assert!(Condition::parse(rule, &limits).is_ok());
    condition.warnings(&limits);
    mentions(rule);
    let now: DateTime<Utc> = DateTime::from_timestamp(1_772_366_400, 0).unwrap_or_default();
    let arena = FactsArena::new();
    let user = UserFacts {
        id: "u",
        traits: arena.parse(traits),
        created_at: now,
        last_seen_at: now,
    };
    // Without properties there is no event.
    let event = (!properties.is_empty()).then(|| EventFacts {
        name: "x",
        properties: arena.parse(properties),
        context: Object::EMPTY,
        timestamp: now,
    });
    let facts = Facts {
        user,
        event,
        now,
        segments: &|_| false,
    };
    let prepared = Prepared::new(facts, &arena);
    let library = condition.matches_by_library(&prepared);
    assert_eq!(condition.matches_prepared(&prepared), library);
    let Ok(list) = list else {
        return;
    };
    let holds = list.matches(user.traits, event.map(|event| event.properties));
    let mentions_event = condition.mentions_event() || list.mentions_event();
    let is_shown = holds && library == Ok(true) && (event.is_some() || !mentions_event);

    let targeting = rule.clone();
    let body = json!({"status": "active", "trigger": "x", "rules": rules, "targeting": targeting});
    let Some(campaign) = compile(body, &limits) else {
        return;
    };
    let findings = campaign.findings(&limits);
    if event.is_some() || !mentions_event {
        for finding in findings {
            match finding.kind {
                FindingKind::NeverTrue => assert!(!is_shown, "{finding:?}"),
                FindingKind::AlwaysTrue => assert_eq!(library, Ok(true), "{finding:?}"),
            }
        }
    }
    if rule.is_null() {
        // No targeting at all.
        return;
    }
    let snapshot = Snapshot::new(1, vec![campaign], Segments::default(), HashMap::new());
    let decision = match event {
        Some(event) => snapshot.on_event(user, event, now, &arena),
        None => snapshot.on_fetch(user, now, &arena),
    };
    assert_eq!(decision.matched.len(), usize::from(is_shown));
}

fn compile(body: Value, limits: &Limits) -> Option<Arc<Campaign>> {
    let body: Map<String, Value> = match body {
        Value::Object(body) => body,
        _ => return None,
    };
    let row = CampaignRow {
        id: "c".to_owned(),
        seq: 1,
        version: 1,
        body,
        created_at: DateTime::UNIX_EPOCH,
        updated_at: None,
    };
    Campaign::compile(&row, limits).ok().map(Arc::new)
}
