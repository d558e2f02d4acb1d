#![expect(clippy::unwrap_used, reason = "a test may panic")]

use serde_json::{Value, json};

use super::showing::SHOWN_BYTES_MAX;
use super::*;
use crate::matcher::CampaignRow;
use crate::segments::Segment;

pub(super) fn campaign(seq: i64, targeting: Value) -> Arc<Campaign> {
    let body = json!({"status": "active", "targeting": targeting});
    let row = CampaignRow {
        seq,
        ..CampaignRow::of(&format!("c{seq}"), &body)
    };
    Arc::new(Campaign::compile(&row, &Limits::default()).unwrap())
}

pub(super) fn explained(
    campaigns: &[Arc<Campaign>],
    segments: &Segments,
    traits: &Value,
    arena: &FactsArena,
) -> Explanation {
    let limits = Limits::default();
    let asked = asked(traits, arena);
    explain(campaigns, segments, asked, &limits, 100, arena, None)
}

pub(super) fn explained_until(
    abandoned: &AtomicBool,
    campaigns: &[Arc<Campaign>],
    traits: &Value,
    arena: &FactsArena,
) -> Explanation {
    let (limits, segments) = (Limits::default(), Segments::default());
    let (asked, abandoned) = (asked(traits, arena), Some(abandoned));
    explain(campaigns, &segments, asked, &limits, 100, arena, abandoned)
}

/// Somebody without an event.
fn asked<'a>(traits: &'a Value, arena: &'a FactsArena) -> Asked<'a> {
    let now = DateTime::UNIX_EPOCH;
    let user = UserFacts {
        id: "u",
        traits: arena.from_value(traits),
        created_at: now,
        last_seen_at: now,
    };
    Asked {
        user,
        event: None,
        now,
    }
}

/// Compiling a pattern takes longer than most evaluations.
#[test]
fn patterns_count_for_what_compiling_them_takes() {
    let pattern = |pattern: &str| json!({"matches": [{"var": "user.traits.a"}, pattern]});
    let plain = steps(&campaign(1, pattern("^a")));
    assert!(plain < 10_000, "{plain}");
    let repeated = steps(&campaign(1, pattern("^(ab){200}$")));
    assert!(repeated > 400_000, "{repeated}");
}

/// Conditions that time alone makes true, each at moments of its own.
pub(super) fn windows(count: usize) -> Vec<Value> {
    let window = |n| json!({"within_last": [{"var": format!("user.traits.t{n}")}, "1d"]});
    (0..count).map(window).collect()
}

/// The traits that they ask for.
pub(super) fn times() -> Value {
    (0..15)
        .map(|n| (format!("t{n}"), json!(format!("2030-01-01T00:00:{n:02}Z"))))
        .collect()
}

#[test]
fn moments_that_are_tried_leave_nothing_behind() {
    let segment = |n| {
        let body = json!({"name": format!("s{n}")});
        let body = body.as_object().unwrap();
        Arc::new(Segment::compile(&format!("id{n}"), body, &Limits::default()).unwrap())
    };
    let segments = Segments::new((0..5_000).map(segment).collect());
    let never = json!({"==": [{"var": "user.traits.plan"}, "pro"]});
    let targeting = json!({"and": [never, {"or": windows(15)}]});
    let arena = FactsArena::new();
    explained(&[campaign(1, targeting)], &segments, &times(), &arena);
    // The memberships of each moment are 5,000 bytes.
    assert!(arena.facts_bytes() < 100_000, "{}", arena.facts_bytes());
}

/// Its moments would take more steps than there are; that of the others is found out all the same.
#[test]
fn moments_that_cannot_be_afforded_cost_the_other_campaigns_nothing() {
    let dear = json!({"some": [
        {"var": "user.traits.a"}, {"some": [{"var": ""}, {"==": [{"var": ""}, {"var": ""}]}]},
    ]});
    let mut of_dear = windows(15);
    of_dear.push(dear);
    let campaigns = [
        campaign(2, json!({ "or": of_dear })),
        campaign(1, json!({ "or": windows(2) })),
    ];
    let arena = FactsArena::new();
    let explanation = explained(&campaigns, &Segments::default(), &times(), &arena);
    let shown = explanation.campaigns.iter();
    let shown = shown.map(|it| (it.campaign_id.as_str(), it.opens_at.is_some()));
    assert_eq!(shown.collect::<Vec<_>>(), [("c2", false), ("c1", true)]);
}

#[test]
fn conditions_of_segments_that_fail_are_counted() {
    let arena = FactsArena::new();
    let body = json!({"name": "s", "targeting": {"<": [{"var": "user.traits.plan"}, 1]}});
    let body = body.as_object().unwrap();
    let segment = Segment::compile("id", body, &Limits::default()).unwrap();
    let segments = Segments::new(vec![Arc::new(segment)]);
    let campaigns = [1, 2].map(|seq| campaign(seq, json!({"in_segment": "s"})));
    let traits = json!({"plan": "pro"});
    let explanation = explained(&campaigns, &segments, &traits, &arena);
    let summary = explanation.summary;
    // Who is in a segment is found out once.
    assert_eq!(
        (summary.first_closed.targeting, summary.rule_errors),
        (2, 1)
    );
}

/// Also one that is named by another one only.
#[test]
fn segments_that_fail_are_named() {
    let segment = |id: &str, name: &str, targeting: Value| {
        let body = json!({"name": name, "targeting": targeting});
        let body = body.as_object().unwrap();
        Arc::new(Segment::compile(id, body, &Limits::default()).unwrap())
    };
    let fails = json!({"<": [{"var": "user.traits.plan"}, 1]});
    let segments = Segments::new(vec![
        segment("id1", "sound", json!(true)),
        segment("id2", "inner", fails),
        segment("id3", "outer", json!({"in_segment": "inner"})),
    ]);
    let named = |include: &[&str], exclude: &[&str]| {
        let named = json!({"include": include, "exclude": exclude});
        let body = json!({"status": "active", "segments": named});
        let row = CampaignRow::of("c", &body);
        [Arc::new(
            Campaign::compile(&row, &Limits::default()).unwrap(),
        )]
    };
    let traits = json!({"plan": "pro"});
    let failed = |campaigns: &[Arc<Campaign>]| {
        let arena = FactsArena::new();
        let explanation = explained(campaigns, &segments, &traits, &arena);
        let gates = &explanation.campaigns.first().unwrap().gates;
        let gate = gates.iter().find(|it| it.gate == Gate::Segments).unwrap();
        let parts = gate.conditions.iter().map(|part| part.error.is_some());
        let names = explanation.failed_segments.into_iter().map(|it| it.name);
        (names.collect::<Vec<_>>(), parts.collect::<Vec<_>>())
    };
    let inner = || vec!["inner".to_owned()];
    assert_eq!(failed(&named(&["sound"], &[])), (vec![], vec![false]));
    assert_eq!(
        failed(&named(&["sound", "inner"], &["id2"])),
        (inner(), vec![false, true, true])
    );
    assert_eq!(failed(&named(&["outer"], &[])), (inner(), vec![false]));
    let by_targeting = campaign(1, json!({"in_segment": "inner"}));
    assert_eq!(failed(&[by_targeting]), (inner(), vec![]));
}

#[test]
fn an_explanation_shows_only_so_many_bytes() {
    let long = |n| (format!("t{n}"), json!("\u{1}".repeat(512)));
    let traits: Value = (0..20).map(long).collect();
    let read = |n| json!({"var": format!("user.traits.t{n}")});
    let all: Vec<Value> = (0..20).map(read).collect();
    let tests = vec![json!({"==": [{"cat": all}, "x"]}); 100];
    let campaigns: Vec<_> = (0..30)
        .map(|n| campaign(n, json!({ "and": tests })))
        .collect();
    let arena = FactsArena::new();
    let explanation = explained(&campaigns, &Segments::default(), &traits, &arena);
    let bytes = serde_json::to_vec(&explanation).unwrap().len();
    // What stands beside the campaigns is little.
    let most = usize::try_from(SHOWN_BYTES_MAX).unwrap() + 1_000_000;
    assert!(bytes > most / 2 && bytes < most, "{bytes}");
    let summary = explanation.summary;
    assert_eq!(summary.shown, explanation.campaigns.len());
    assert_eq!((summary.campaigns, summary.examined), (30, 30));
}

#[test]
fn the_first_campaign_is_shown_whatever_it_takes_and_the_next_ones_if_they_fit() {
    let arena = FactsArena::new();
    let explanation = explained(
        &[campaign(1, json!(true))],
        &Segments::default(),
        &json!({}),
        &arena,
    );
    let of_bytes = |bytes: u64| ExplainedCampaign {
        name: "n".repeat(usize::try_from(bytes).unwrap()),
        ..explanation.campaigns.first().unwrap().clone()
    };
    let (small, half) = (of_bytes(1), of_bytes(SHOWN_BYTES_MAX / 2));
    let large = of_bytes(SHOWN_BYTES_MAX + 1);
    for (list, count) in [
        (vec![&large, &small], 1),
        (vec![&half, &half, &small], 1),
        (vec![&half, &small, &large, &small], 2),
        (vec![&small; 3], 3),
    ] {
        let mut showing = Showing::of(100);
        list.into_iter().for_each(|it| showing.add(it.clone()));
        assert_eq!(showing.into_shown().len(), count);
    }
}

#[test]
fn of_very_many_campaigns_only_so_many_are_examined() {
    let too_many = EXAMINED_MAX + 1;
    let one = campaign(1, json!({"==": [{"var": "user.traits.plan"}, "pro"]}));
    let arena = FactsArena::new();
    let campaigns = vec![one; too_many];
    let explanation = explained(&campaigns, &Segments::default(), &json!({}), &arena);
    let summary = explanation.summary;
    assert_eq!(
        (summary.campaigns, summary.first_closed.targeting),
        (too_many, too_many)
    );
    assert_eq!(summary.examined, EXAMINED_MAX);
}

/// A rule has few, and a campaign may name many segments.
#[test]
fn only_so_many_moments_of_a_campaign_are_tried() {
    let each = 16;
    let window = |n: usize| json!({"within_last": [{"var": format!("user.traits.t{n}")}, "1d"]});
    let segment = |number: usize| {
        let windows: Vec<Value> = (number * each..(number + 1) * each).map(window).collect();
        let body = json!({"name": format!("s{number}"), "targeting": {"or": windows}});
        let body = body.as_object().unwrap();
        Arc::new(Segment::compile(&format!("id{number}"), body, &Limits::default()).unwrap())
    };
    let segments = Segments::new((0..5).map(segment).collect());
    let at = |n: usize| json!(format!("2030-01-01T00:{:02}:{:02}Z", n / 60, n % 60));
    let times: Value = (0..5 * each).map(|n| (format!("t{n}"), at(n))).collect();
    for (count, is_told) in [(1, true), (4, true), (5, false)] {
        let names: Vec<String> = (0..count).map(|number| format!("s{number}")).collect();
        let body = json!({"status": "active", "segments": {"include": names}});
        let row = CampaignRow::of("c", &body);
        let campaign = Arc::new(Campaign::compile(&row, &Limits::default()).unwrap());
        let explanation = explained(&[campaign], &segments, &times, &FactsArena::new());
        let opens_at = explanation.campaigns.first().unwrap().opens_at;
        assert_eq!(opens_at.is_some(), is_told, "{count}");
    }
}

#[test]
fn an_explanation_takes_only_so_many_steps() {
    let element = json!({"var": ""});
    let tests: Vec<Value> = (0..4).map(|n| json!({"==": [element, n]})).collect();
    let twice = json!({"some": [
        {"var": "user.traits.a"}, {"some": [element, {"or": tests}]},
    ]});
    let campaigns: Vec<_> = (0..30).map(|n| campaign(n, twice.clone())).collect();
    let once = steps(campaigns.first().unwrap());
    let arena = FactsArena::new();
    let explanation = explained(&campaigns, &Segments::default(), &json!({}), &arena);
    let summary = explanation.summary;
    assert_eq!((summary.campaigns, summary.matched), (30, 0));
    let times = |most, times| usize::try_from(most / (once * times)).unwrap();
    let examined = times(EXAMINING_STEPS_MAX, TIMES_TO_EXAMINE);
    let shown = times(STEPS_MAX, TIMES_TO_EXPLAIN);
    assert!((1..examined).contains(&shown) && examined < 30, "{once}");
    assert_eq!((summary.examined, summary.shown), (examined, shown));
    assert_eq!(explanation.nearest_misses.len(), shown);
}
