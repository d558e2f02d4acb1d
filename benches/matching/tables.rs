//! What the figures come to.

use crate::goals::Goal;
use crate::measure::range;
use crate::plot;
use crate::report::{line, median, table};
use crate::worlds::Kinds;
use crate::{SideResult, SizeResult};

/// The size that the goals are about.
const GOAL_SIZE: u64 = 100_000;

fn micros(ns: f64) -> String {
    let us = ns / 1e3;
    match us {
        _ if us < 100.0 => format!("{us:.2}"),
        _ => format!("{us:.0}"),
    }
}

/// Prints what the sides did in one world, and what only Beckon has.
pub fn print(kinds: Kinds, sizes: &[SizeResult]) {
    line(format_args!("\n{}\n", kinds.name()));
    let mut rows = Vec::new();
    for result in sizes {
        let Some(ours) = result.side("beckon") else {
            continue;
        };
        rows.extend(result.sides.iter().map(|side| side_row(result, side, ours)));
    }
    let headings = [
        "campaigns, side",
        "matches",
        "p50",
        "p99",
        "mean",
        "over beckon",
        "bytes/campaign",
        "build s",
        "left out",
    ];
    table(&headings, &rows);
    line("");
    let rows: Vec<Vec<String>> = sizes.iter().filter_map(beckon_row).collect();
    let headings = [
        "beckon",
        "p50 of few matches (pairs)",
        "µs/match",
        "allocations/hit",
        "misses: allocations (pairs)",
        "index B",
        "compiled B",
        "body B",
        "unindexed",
        "change ms",
        "slowest",
    ];
    table(&headings, &rows);
    let at = |size| {
        sizes
            .iter()
            .find(|result| result.size == size)?
            .side("beckon")
    };
    if let (Some(thousand), Some(goal)) = (at(1_000), at(GOAL_SIZE)) {
        line(format_args!(
            "\n{GOAL_SIZE} campaigns over 1,000: p50 {:.1}, mean {:.1}",
            goal.figures.p50_ns() / thousand.figures.p50_ns(),
            goal.figures.mean_ns() / thousand.figures.mean_ns(),
        ));
    }
}

fn side_row(result: &SizeResult, side: &SideResult, ours: &SideResult) -> Vec<String> {
    let figures = &side.figures;
    vec![
        format!("{} {}", result.size, side.name),
        format!("{:.2}", figures.matches()),
        micros(figures.p50_ns()),
        figures.p99_ns().map_or_else(|| "-".to_owned(), micros),
        micros(figures.mean_ns()),
        format!("{:.1}", median(&figures.times_slower_than(&ours.figures))),
        format!("{:.0}", side.bytes_each),
        format!("{:.2}", side.build_seconds),
        side.left_out.to_string(),
    ]
}

fn beckon_row(result: &SizeResult) -> Option<Vec<String>> {
    let figures = &result.side("beckon")?.figures;
    let (pairs, p50_of_few) = figures.few_matches();
    let (built, allocations) = (&result.built, &result.allocations);
    Some(vec![
        result.size.to_string(),
        match pairs {
            0 => "-".to_owned(),
            _ => format!("{} ({pairs})", micros(p50_of_few)),
        },
        match figures.ns_per_match() {
            ns if ns.is_finite() => format!("{:.3}", ns / 1e3),
            _ => "-".to_owned(),
        },
        format!("{:.1}", allocations.per_hit),
        format!("{} ({})", allocations.of_misses, allocations.misses),
        format!("{:.0}", built.index_each()),
        format!("{:.0}", built.compiled_each()),
        format!("{:.0}", built.body_each()),
        result.unindexed.to_string(),
        format!("{:.1}", result.change.median_ms),
        format!("{:.1}", result.change.highest_ms),
    ])
}

/// What is to be reached in the typical world.
pub fn goals(sizes: &[SizeResult]) -> Vec<Goal> {
    let Some(result) = sizes.iter().find(|result| result.size == GOAL_SIZE) else {
        return Vec::new();
    };
    let Some(ours) = result.side("beckon") else {
        return Vec::new();
    };
    let micros = |(low, high): (f64, f64)| (low / 1e3, high / 1e3);
    let figures = &ours.figures;
    let p99 = figures.p99_ns().unwrap_or(f64::NAN);
    let mut goals = vec![
        Goal {
            rounds: micros(figures.p50_range()),
            ..Goal::at_most("p50 of a decision, µs", figures.p50_ns() / 1e3, 5.0)
        },
        Goal {
            rounds: micros(figures.p99_range()),
            ..Goal::at_most("p99 of a decision, µs", p99 / 1e3, 50.0)
        },
    ];
    if let Some(trees) = result.side("a-tree") {
        let ratios = trees.figures.times_slower_than(figures);
        goals.push(Goal {
            rounds: range(&ratios),
            ..Goal::at_least("mean of a-tree / beckon", median(&ratios), 30.0)
        });
    }
    let (built, change) = (&result.built, &result.change);
    goals.push(Goal::at_most(
        "bytes a campaign, index and compiled rules",
        built.bytes_each(),
        1_024.0,
    ));
    goals.push(Goal::at_most(
        "a change, ms (the slowest)",
        change.highest_ms,
        50.0,
    ));
    goals.push(Goal::at_most("from rows to ready, s", built.seconds, 5.0));
    goals
}

/// The medians of all sides over the sizes.
pub fn panel((kinds, sizes): &(Kinds, Vec<SizeResult>)) -> plot::Panel {
    const COLOURS: [(&str, &str); 6] = [
        ("bitmaps", "#0891b2"),
        ("one by one", "#7c3aed"),
        ("trigger hash", "#336791"),
        ("a-tree", "#15803d"),
        ("closures", "#737373"),
        ("beckon", "#c2410c"),
    ];
    let of = |name: &str, result: &SizeResult| {
        let figures = &result.side(name)?.figures;
        Some((result.size, figures.p50_ns() / 1e3))
    };
    plot::Panel {
        title: format!("p50 of a decision in µs, {} world", kinds.name()),
        lines: COLOURS
            .into_iter()
            .map(|(name, colour)| plot::Line {
                name: name.to_owned(),
                colour,
                points: sizes.iter().filter_map(|result| of(name, result)).collect(),
            })
            .collect(),
    }
}
