//! What the figures come to: tables, ratios, and what of them is to be reached.

use serde_json::{Value, json};

use crate::goals::Goal;
use crate::report::{self, line, median, table};
use crate::sides::{Figures, Results, Shape, Side};

/// At least this ratio of events a second to this side.
fn budget(shape: Shape, side: Side) -> Option<f64> {
    let connections = if report::flag("--slow-sync") { 256 } else { 64 };
    match (shape.batch, side) {
        (0, _) if shape.connections != connections => None,
        (0, Side::Raw) => Some(1.0),
        (0, Side::Group) => Some(0.85),
        (0, Side::Naive) => Some(150.0),
        (100, Side::Raw) => Some(0.8),
        _ => None,
    }
}

/// The median of one figure.
pub fn of(figures: &[Figures], figure: fn(&Figures) -> f64) -> f64 {
    median(&figures.iter().map(figure).collect::<Vec<_>>())
}

/// The lowest and the highest round.
pub fn range(rounds: &[f64]) -> (f64, f64) {
    let all = rounds.iter().copied();
    (
        all.clone().fold(f64::MAX, f64::min),
        all.fold(f64::MIN, f64::max),
    )
}

/// Prints the figures.
pub fn print_figures(results: &Results) {
    let rows: Vec<Vec<String>> = results
        .iter()
        .map(|((shape, side), figures)| {
            let whole = |figure| format!("{:.0}", of(figures, figure));
            let millis = |figure: fn(&Figures) -> f64| format!("{:.2}", of(figures, figure) / 1e3);
            let tenths = |figure| format!("{:.1}", of(figures, figure));
            vec![
                format!("{}: {}", shape.describe(), side.name()),
                whole(|f| f.events_per_second),
                millis(|f| f.p50_us),
                millis(|f| f.p99_us),
                millis(|f| f.p999_us),
                tenths(|f| f.server_cpu_us),
                tenths(|f| f.postgres_cpu_us),
                tenths(|f| f.rows_per_transaction),
            ]
        })
        .collect();
    let headings = [
        "",
        "events/s",
        "p50 ms",
        "p99 ms",
        "p99.9 ms",
        "server µs/event",
        "postgres µs/event",
        "rows/commit",
    ];
    table(&headings, &rows);
}

/// The figures as JSON.
pub fn figures_json(results: &Results) -> Value {
    let one = |((shape, side), figures): (&(Shape, Side), &Vec<Figures>)| {
        let of = |figure| of(figures, figure);
        json!({
            "side": side.name(),
            "batch": shape.batch,
            "connections": shape.connections,
            "events_per_second": of(|f| f.events_per_second),
            "events_per_second_by_round":
                figures.iter().map(|f| f.events_per_second).collect::<Vec<_>>(),
            "p50_us": of(|f| f.p50_us),
            "p99_us": of(|f| f.p99_us),
            "p999_us": of(|f| f.p999_us),
            "server_cpu_us_per_event": of(|f| f.server_cpu_us),
            "postgres_cpu_us_per_event": of(|f| f.postgres_cpu_us),
            "rows_per_transaction": of(|f| f.rows_per_transaction),
        })
    };
    results.iter().map(one).collect()
}

/// Beckon's events a second over another side's.
pub struct Ratio {
    shape: Shape,
    side: Side,
    by_round: Vec<f64>,
}

impl Ratio {
    fn what(&self) -> String {
        format!("{}: beckon / {}", self.shape.describe(), self.side.name())
    }

    /// The ratio as JSON.
    pub fn json(&self) -> Value {
        json!({
            "batch": self.shape.batch,
            "connections": self.shape.connections,
            "to": self.side.name(),
            "median": median(&self.by_round),
            "by_round": self.by_round,
        })
    }

    /// What is to be reached of it, if anything is.
    pub fn goal(&self) -> Option<Goal> {
        Some(Goal {
            what: self.what(),
            value: median(&self.by_round),
            rounds: range(&self.by_round),
            bound: budget(self.shape, self.side)?,
            at_most: false,
        })
    }
}

/// All ratios, taken within a round.
pub fn ratios(results: &Results) -> Vec<Ratio> {
    let mut ratios = Vec::new();
    for ((shape, side), figures) in results {
        let Some(ours) = results.get(&(*shape, Side::Beckon)) else {
            continue;
        };
        if *side == Side::Beckon {
            continue;
        }
        let by_round = ours
            .iter()
            .zip(figures)
            .map(|(ours, theirs)| ours.events_per_second / theirs.events_per_second)
            .collect();
        ratios.push(Ratio {
            shape: *shape,
            side: *side,
            by_round,
        });
    }
    ratios
}

/// Prints the ratios.
pub fn print_ratios(ratios: &[Ratio]) {
    line("");
    let rows: Vec<Vec<String>> = ratios
        .iter()
        .map(|ratio| {
            let (low, high) = range(&ratio.by_round);
            vec![
                ratio.what(),
                format!("{:.2}", median(&ratio.by_round)),
                format!("{low:.2} to {high:.2}"),
            ]
        })
        .collect();
    table(&["", "ratio", "rounds"], &rows);
}
