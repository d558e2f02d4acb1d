//! What is said of a campaign before anybody has seen it is true whatever happens.

use beckon::matcher::FindingKind;

use super::generate::{clashing, scalar};
use super::*;

fn compiled(body: &Value) -> Campaign {
    let row = CampaignRow {
        id: "c".to_owned(),
        seq: 1,
        version: 1,
        body: map(body),
        created_at: now(),
        updated_at: None,
    };
    Campaign::compile(&row, &Limits::default()).unwrap()
}

fn on_x(targeting: &Value) -> Value {
    json!({"status": "active", "trigger": "x", "targeting": targeting})
}

fn kinds(body: &Value) -> Vec<(FindingKind, String)> {
    let findings = compiled(body).findings(&Limits::default());
    findings
        .into_iter()
        .map(|it| (it.kind, it.pointer))
        .collect()
}

/// A moment in which a campaign on `x` may be asked, with values that rules are likely to name.
fn moment_on_x() -> impl Strategy<Value = Moment> {
    let pinned = (prop::option::of(scalar()), prop::option::of(scalar()));
    (moment(), pinned).prop_map(|(mut moment, (of_user, of_event))| {
        let pin = |text: &str, value: Option<Value>| {
            let mut object: Value = serde_json::from_str(text).unwrap();
            if let Some(value) = value {
                object["a"] = value;
            }
            object.to_string()
        };
        moment.traits = pin(&moment.traits, of_user);
        moment.event = moment
            .event
            .map(|(_, properties, context)| ("x", pin(&properties, of_event), context));
        moment
    })
}

/// The library's answer; `None` when the campaign is not asked, since there is no event.
fn answer(condition: &Condition, moment: &Moment) -> Option<bool> {
    let arena = FactsArena::new();
    let event = moment.event(&arena);
    if event.is_none() && condition.mentions_event() {
        return None;
    }
    let facts = Facts {
        user: moment.user(&arena),
        event,
        now: now(),
        segments: &|name| name == "s-a",
    };
    let answer = condition.matches_by_library(&Prepared::new(facts, &arena));
    Some(answer == Ok(true))
}

#[test]
fn what_is_reported_is_true_of_everybody() {
    let (never, always, neither) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let rules = prop_oneof![3 => clashing(), 1 => rule()];
    let strategy = (
        prop::collection::vec(rules, 12),
        prop::collection::vec(moment_on_x(), 40),
    );
    run(
        if is_soak() { 10_000 } else { 150 },
        strategy,
        |(rules, moments)| {
            for rule in &rules {
                let (count, expected) = match kinds(&on_x(rule)).first() {
                    None => (&neither, None),
                    Some((FindingKind::NeverTrue, _)) => (&never, Some(false)),
                    Some((FindingKind::AlwaysTrue, _)) => (&always, Some(true)),
                };
                count.fetch_add(1, Ordering::Relaxed);
                let Some(expected) = expected else {
                    continue;
                };
                let condition = Condition::parse(rule, &Limits::default()).unwrap();
                for moment in &moments {
                    if let Some(answer) = answer(&condition, moment) {
                        prop_assert_eq!(answer, expected, "{} on {:?}", rule, moment);
                    }
                }
            }
            Ok(())
        },
    );
    let counts = [never, always, neither].map(AtomicU64::into_inner);
    println!("never, always, neither: {counts:?}");
    assert!(counts[0] >= 200 && counts[1] >= 30, "{counts:?}");
}

#[test]
fn who_is_said_to_hide_another_is_always_there_with_it() {
    let (hidden, open) = (AtomicU64::new(0), AtomicU64::new(0));
    let strategy = (
        prop::collection::vec(clashing(), 8),
        prop::collection::vec(moment_on_x(), 40),
    );
    run(
        if is_soak() { 5_000 } else { 60 },
        strategy,
        |(rules, moments)| {
            let parsed: Vec<_> = rules
                .iter()
                .map(|rule| {
                    let condition = Condition::parse(rule, &Limits::default()).unwrap();
                    (compiled(&on_x(rule)), condition)
                })
                .collect();
            for (above, over) in &parsed {
                for (below, under) in &parsed {
                    if !above.is_shown_whenever(below) {
                        open.fetch_add(1, Ordering::Relaxed);
                        continue;
                    }
                    hidden.fetch_add(1, Ordering::Relaxed);
                    for moment in &moments {
                        if answer(under, moment) == Some(true) {
                            let both = answer(over, moment);
                            prop_assert_eq!(both, Some(true), "{:?} {:?}", over, under);
                        }
                    }
                }
            }
            Ok(())
        },
    );
    let counts = [hidden, open].map(AtomicU64::into_inner);
    println!("hidden, not: {counts:?}");
    assert!(counts.into_iter().all(|count| count >= 200), "{counts:?}");
}

#[test]
fn what_is_said_to_be_indexed_is() {
    let strategy = prop::collection::vec(campaign(), 0..40);
    run(100, strategy, |bodies| {
        let live: Vec<Value> = bodies
            .into_iter()
            .filter(|body| body["status"] == "active")
            .collect();
        let tried = live.iter().map(compiled).filter(|campaign| {
            // About an event and without a trigger it is never a candidate.
            let is_candidate = campaign.trigger().is_some() || !campaign.mentions_event();
            is_candidate && !campaign.is_indexed()
        });
        prop_assert_eq!(snapshot(&live).unindexed(), tried.count());
        Ok(())
    });
}

fn a() -> Value {
    json!({"var": "user.traits.a"})
}

#[test]
fn contradictions_are_found_where_they_stand() {
    let never = |targeting: Value, pointer: &str| {
        let found = kinds(&on_x(&targeting));
        let expected = vec![(FindingKind::NeverTrue, format!("/targeting{pointer}"))];
        assert_eq!(found, expected, "{targeting}");
    };
    never(json!({"and": [{"==": [a(), 1]}, {"==": [a(), 2]}]}), "");
    never(
        json!({"and": [{"===": [a(), "x"]}, {"===": [a(), "y"]}]}),
        "",
    );
    never(json!({"and": [{">": [a(), 5]}, {"<": [a(), 5]}]}), "");
    never(
        json!({"and": [{">": [a(), "m"]}, {"<": [a(), "k"]}, {"in": [a(), ["l", "x"]]}]}),
        "",
    );
    never(json!({"and": [true, {"in": [a(), []]}]}), "/and/1");
    never(json!({"between": [a(), 9, 3]}), "");
    never(
        json!({"and": [{"exists": "user.traits.a"}, {"==": [a(), null]},
                         {"!": {"==": [a(), ""]}}, {">": [a(), 0]}]}),
        "",
    );
    never(
        json!({"and": [{"starts_with": [a(), "ab"]}, {"starts_with": [a(), "b"]}]}),
        "",
    );
    never(
        json!({"and": [{"after": [a(), "2026-03-01"]}, {"before": [a(), "2026-02-01"]}]}),
        "",
    );
    never(
        json!({"and": [{"in_segment": "s"}, {"!": {"in_segment": "s"}}]}),
        "",
    );
    never(json!({"==": [{"var": "event.name"}, "y"]}), "");
    never(json!({"===": [{"var": "user.id"}, 5]}), "");
    never(
        json!({"or": [false, {"and": [{"some": [a(), true]}, {"and": [1, 0]}]}]}),
        "",
    );
    never(
        json!({"and": [{"or": [{"==": [a(), 1]}, {"==": [a(), 2]}]}, {">": [a(), 2]}]}),
        "",
    );
    // " 1 " is a number for one of them, and the other fails on it.
    never(
        json!({"and": [{"between": [a(), 1, 1]}, {"!": {"==": [a(), 1]}}]}),
        "",
    );
    never(
        json!({"if": [{"==": [a(), 1]}, {"==": [a(), 2]}, false]}),
        "",
    );
    // And by way of the other gates.
    let rule = json!([{"type": "attribute", "field": "a", "operator": "==", "value": "x"}]);
    let mut both = on_x(&json!({"===": [a(), 7]}));
    both["rules"] = rule.clone();
    assert_eq!(kinds(&both), [(FindingKind::NeverTrue, String::new())]);
    let other = json!({"type": "attribute", "field": "a", "operator": "==", "value": "y"});
    let rules = json!({"status": "active", "trigger": "x", "rules": [rule[0], other]});
    assert_eq!(
        kinds(&rules),
        [(FindingKind::NeverTrue, "/rules".to_owned())]
    );
    let segments = json!({"trigger": "x", "segments": {"include": ["s"], "exclude": ["s"]}});
    assert_eq!(
        kinds(&segments),
        [(FindingKind::NeverTrue, "/segments".to_owned())]
    );
    let no_trigger = json!({"targeting": {"exists": "event.properties.a"}});
    assert_eq!(
        kinds(&no_trigger),
        [(FindingKind::NeverTrue, "/trigger".to_owned())]
    );
}

#[test]
fn conditions_that_leave_nobody_out_are_found() {
    for targeting in [
        json!({"or": [{"exists": "user.traits.a"}, {"!": {"exists": "user.traits.a"}}]}),
        json!({"exists": "user.id"}),
        json!({"==": [{"var": "event.name"}, "x"]}),
        json!({"!": {"in": [a(), []]}}),
        json!({"!==": [{"var": "user.id"}, 5]}),
        json!("text"),
    ] {
        let found = kinds(&on_x(&targeting));
        assert_eq!(
            found,
            [(FindingKind::AlwaysTrue, "/targeting".to_owned())],
            "{targeting}"
        );
    }
}

/// Each of these can go one way or the other, some only in ways that are easily overlooked.
#[test]
fn nothing_is_said_of_what_depends() {
    for targeting in [
        json!(true),
        // "1.0" is the number 1 and not the text "1".
        json!({"and": [{"==": [a(), 1]}, {"!==": [a(), "1"]}, {"!==": [a(), 1]}]}),
        // A missing value is less than 18 and not more than 0.
        json!({"and": [{"<": [a(), 18]}, {"!": {">": [a(), 0]}}]}),
        json!({"and": [{"==": [a(), 1]}, {"==": [a(), true]}]}),
        json!({"and": [{"==": [a(), ""]}, {"==": [a(), 0]}]}),
        json!({"or": [{">": [a(), 5]}, {"<=": [a(), 5]}]}),
        json!({"or": [{"==": [a(), 1]}, {"!=": [a(), 1]}]}),
        json!({"and": [{"within_last": [a(), "3d"]}, {"before": [a(), "2020-01-01"]}]}),
        json!({"and": [{">": [a(), "b"]}, {"<": [a(), "c"]}]}),
        json!({"==": [{"+": [a(), 1]}, {"+": [a(), 2]}]}),
        // " 1 " is a number for one of them, and the other says no to what is none.
        json!({"and": [{"between": [a(), 0, 1]}, {"!": {">=": [a(), null]}}]}),
    ] {
        assert_eq!(kinds(&on_x(&targeting)), [], "{targeting}");
    }
}

#[test]
fn a_wider_campaign_hides_a_narrower_one() {
    let between = |low: i64, high: i64| json!({"<=": [low, a(), high]});
    let narrow = compiled(&on_x(
        &json!({"and": [{"exists": "user.traits.a"}, between(20, 30)]}),
    ));
    let wide = compiled(&on_x(&between(18, 65)));
    assert!(wide.is_shown_whenever(&narrow));
    assert!(!narrow.is_shown_whenever(&wide));
    let everybody = compiled(&json!({"status": "active", "trigger": "x"}));
    assert!(everybody.is_shown_whenever(&narrow) && !narrow.is_shown_whenever(&everybody));
    for (gate, value) in [
        ("status", json!("paused")),
        ("trigger", json!("y")),
        ("schedule", json!({"end": "2026-12-31T00:00:00Z"})),
        ("segments", json!({"exclude": ["s"]})),
        (
            "rules",
            json!([{"type": "event", "field": "a", "operator": "==", "value": 1}]),
        ),
        ("targeting", json!({"==": [{"%": [a(), 2]}, 0]})),
    ] {
        let mut body = json!({"status": "active", "trigger": "x"});
        body[gate] = value;
        let above = compiled(&body);
        assert!(!above.is_shown_whenever(&narrow), "{gate}");
        // What has the same gate and more of them is covered, unless it is off.
        let mut below = body.clone();
        below["segments"] = json!({"include": ["t"], "exclude": ["s"]});
        assert_eq!(
            above.is_shown_whenever(&compiled(&below)),
            gate != "status",
            "{gate}"
        );
    }
    // Also shown when there is no event, where the other is not.
    let on_event = compiled(&on_x(&json!({"exists": "event.properties.a"})));
    assert!(everybody.is_shown_whenever(&on_event) && !on_event.is_shown_whenever(&everybody));
}
