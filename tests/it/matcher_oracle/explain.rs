//! Explanations against the decisions they explain, and against the slow matcher's gates.

use std::sync::atomic::{AtomicU64, Ordering};

use beckon::matcher::{
    Asked, Decision, ExplainedCampaign, Explanation, GateReport, Snapshot, explain,
};
use beckon::rules::{FactsArena, Limits, TraceOutcome};
use chrono::{DateTime, TimeDelta, Utc};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{
    Moment, Slow, assert_met, campaign, compiled, is_soak, moment, now, parsed, parsed_segments,
    run, snapshot,
};

/// How much of what the tests are about was met.
#[derive(Default)]
struct Met {
    pairs: AtomicU64,
    openings: AtomicU64,
}

fn decide<'a>(
    snapshot: &Snapshot,
    moment: &'a Moment,
    at: DateTime<Utc>,
    arena: &'a FactsArena,
) -> Decision {
    let user = moment.user(arena);
    match moment.event(arena) {
        Some(event) => snapshot.on_event(user, event, at, arena),
        None => snapshot.on_fetch(user, at, arena),
    }
}

fn holds(gate: &GateReport) -> bool {
    gate.conditions
        .iter()
        .all(|condition| condition.outcome == TraceOutcome::Holds)
}

/// What must be so within one campaign's explanation.
fn consistent(explained: &ExplainedCampaign) -> Result<(), TestCaseError> {
    let closed = explained.gates.iter().find(|gate| !gate.passes);
    prop_assert_eq!(explained.first_closed_gate, closed.map(|gate| gate.gate));
    prop_assert_eq!(explained.matched, closed.is_none());
    prop_assert_eq!(
        explained.matched,
        explained.failing_conditions == 0,
        "{:#?}",
        explained
    );
    prop_assert_eq!(
        explained.matched,
        explained.first_failing.is_none(),
        "{:#?}",
        explained
    );
    for gate in &explained.gates {
        // The parts, put together, come out as the decision did.
        prop_assert_eq!(gate.passes, holds(gate), "{:#?}", gate);
    }
    if let Some(failing) = &explained.first_failing {
        prop_assert!(failing.reached, "{:#?}", explained);
    }
    Ok(())
}

fn check(bodies: &[Value], moments: &[Moment], met: &Met) -> Result<(), TestCaseError> {
    let snapshot = snapshot(bodies);
    let (campaigns, slow_campaigns) = (compiled(bodies), parsed(bodies));
    let segments = parsed_segments();
    let limits = Limits::default();
    for moment in moments {
        let arena = FactsArena::new();
        let asked = Asked {
            user: moment.user(&arena),
            event: moment.event(&arena),
            now: now(),
        };
        let explanation: Explanation = explain(
            &campaigns,
            snapshot.segments(),
            asked,
            &limits,
            1_000,
            &arena,
            None,
        );
        let decision = decide(&snapshot, moment, now(), &arena);
        let decided: Vec<&str> = decision.matched.iter().map(|it| it.id.as_str()).collect();
        prop_assert_eq!(&explanation.matched, &decided, "{:?}", moment);
        prop_assert_eq!(explanation.campaigns.len(), bodies.len());
        let slow = Slow {
            user: asked.user,
            event: asked.event,
            segments: &segments,
        };
        for explained in &explanation.campaigns {
            consistent(explained)?;
            let place: usize = explained.campaign_id.parse().unwrap();
            let expected = slow.first_closed(&slow_campaigns[place]);
            prop_assert_eq!(explained.first_closed_gate, expected, "{:#?}", explained);
            let Some(opens_at) = explained.opens_at else {
                continue;
            };
            met.openings.fetch_add(1, Ordering::Relaxed);
            let shown_at = |at: DateTime<Utc>| {
                let decision = decide(&snapshot, moment, at, &arena);
                decision
                    .matched
                    .iter()
                    .any(|it| it.id == explained.campaign_id)
            };
            prop_assert!(opens_at > now() && shown_at(opens_at), "{:#?}", explained);
            // Not at any of these moments before.
            let wait = opens_at - now();
            for before in [
                TimeDelta::milliseconds(1),
                wait / 2,
                wait / 3,
                wait - wait / 9,
            ] {
                let at = opens_at - before;
                prop_assert!(at < now() || !shown_at(at), "at {at} {:#?}", explained);
            }
        }
        met.pairs.fetch_add(bodies.len() as u64, Ordering::Relaxed);
    }
    Ok(())
}

/// A campaign that time alone may open.
fn waiting() -> impl Strategy<Value = Value> {
    let time = prop_oneof![
        Just(json!({"var": "user.created_at"})),
        Just(json!({"var": "user.traits.a"})),
        (-50_i64..50).prop_map(|hours| json!((now() + TimeDelta::hours(hours)).to_rfc3339())),
    ];
    let window = prop::sample::select(vec!["1h", "1d", "3d"]);
    let condition = prop_oneof![
        (time.clone(), window).prop_map(|(time, window)| json!({"within_last": [time, window]})),
        time.clone()
            .prop_map(|time| json!({"before": [{"var": "now"}, time]})),
        time.prop_map(|time| json!({"after": [{"var": "now"}, time]})),
        Just(json!({"in_segment": "s-a"})),
    ];
    let negated = (condition, any::<bool>()).prop_map(|(condition, is_negated)| {
        if is_negated {
            json!({ "!": [condition] })
        } else {
            condition
        }
    });
    let join = prop::sample::select(vec!["and", "and", "or"]);
    let conditions = prop::collection::vec(negated, 1..4);
    let start = prop::option::weighted(0.3, -10_i64..10);
    (join, conditions, start).prop_map(|(join, conditions, start)| {
        let start = start.map(|hours| (now() + TimeDelta::hours(hours)).to_rfc3339());
        json!({
            "name": "c", "status": "active", "trigger": "x", "rules": [], "priority": 0,
            "schedule": {"start": start, "end": null},
            "segments": {"include": [], "exclude": []},
            "targeting": {join: conditions},
        })
    })
}

#[test]
fn an_explanation_agrees_with_the_decision() {
    let met = Met::default();
    let strategy = (
        prop::collection::vec(prop_oneof![campaign(), waiting()], 0..30),
        prop::collection::vec(moment(), 6),
    );
    run(
        if is_soak() { 5_000 } else { 80 },
        strategy,
        |(bodies, moments)| check(&bodies, &moments, &met),
    );
    assert_met("pairs", met.pairs, 2_000, 400_000);
    assert_met("openings", met.openings, 50, 10_000);
}
