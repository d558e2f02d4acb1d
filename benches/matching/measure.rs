//! How long a side takes to decide.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::report::{Outcome, median, quantile};
use crate::sides::Side;
use crate::worlds::Pair;

/// At least so many decisions are measured, however long they take.
const DECISIONS_MIN: usize = 8;
/// A 99th percentile of fewer decisions says nothing.
const DECISIONS_FOR_P99: usize = 200;
/// A pair with at most so many matches has few.
const FEW: usize = 10;

/// What a side did in one round.
struct Round {
    mean_ns: f64,
    p50_ns: f64,
    p99_ns: f64,
    decisions: usize,
    by_pair: Vec<PairTimes>,
}

/// What the decisions on one pair took, and what they found.
#[derive(Clone, Copy, Default)]
struct PairTimes {
    ns: f64,
    decisions: f64,
    matches: usize,
}

/// What a side did in all rounds.
#[derive(Default)]
pub struct Figures {
    rounds: Vec<Round>,
}

impl Figures {
    /// Decides on the pairs, over and over, until the time is up; each round begins elsewhere,
    /// so that a slow side sees other pairs.
    pub fn measure(&mut self, side: &dyn Side, pairs: &[Pair], budget: Duration) {
        let mut by_pair = vec![PairTimes::default(); pairs.len()];
        let first = self.rounds.len() * 171 % pairs.len();
        let order = || (first..pairs.len()).chain(0..first);
        let warm = Instant::now();
        for number in order() {
            std::hint::black_box(side.count(number, &pairs[number]));
            if warm.elapsed() >= budget / 4 {
                break;
            }
        }
        let mut times = Vec::new();
        let start = Instant::now();
        'full: loop {
            for number in order() {
                let begun = Instant::now();
                let matches = std::hint::black_box(side.count(number, &pairs[number]));
                let took = begun.elapsed().as_nanos() as f64;
                times.push(took as u32);
                let pair = &mut by_pair[number];
                (pair.ns, pair.decisions) = (pair.ns + took, pair.decisions + 1.0);
                pair.matches = matches;
                if start.elapsed() >= budget && times.len() >= DECISIONS_MIN {
                    break 'full;
                }
            }
        }
        let sum: f64 = times.iter().map(|time| f64::from(*time)).sum();
        times.sort_unstable();
        self.rounds.push(Round {
            mean_ns: sum / times.len() as f64,
            p50_ns: f64::from(quantile(&times, 0.5)),
            p99_ns: f64::from(quantile(&times, 0.99)),
            decisions: times.len(),
            by_pair,
        });
    }

    fn of(&self, figure: fn(&Round) -> f64) -> f64 {
        median(&self.rounds.iter().map(figure).collect::<Vec<_>>())
    }

    /// The mean of a decision, in nanoseconds.
    pub fn mean_ns(&self) -> f64 {
        self.of(|round| round.mean_ns)
    }

    /// The median of a decision, in nanoseconds.
    pub fn p50_ns(&self) -> f64 {
        self.of(|round| round.p50_ns)
    }

    /// The 99th percentile of a decision, in nanoseconds, if there were decisions enough.
    pub fn p99_ns(&self) -> Option<f64> {
        let is_enough = |round: &Round| round.decisions >= DECISIONS_FOR_P99;
        let p99 = || self.of(|round| round.p99_ns);
        self.rounds.iter().all(is_enough).then(p99)
    }

    /// The lowest and highest median of a round.
    pub fn p50_range(&self) -> (f64, f64) {
        range(
            &self
                .rounds
                .iter()
                .map(|round| round.p50_ns)
                .collect::<Vec<_>>(),
        )
    }

    /// The lowest and highest 99th percentile of a round.
    pub fn p99_range(&self) -> (f64, f64) {
        range(
            &self
                .rounds
                .iter()
                .map(|round| round.p99_ns)
                .collect::<Vec<_>>(),
        )
    }

    /// For each pair that was decided on the mean time, and its matches.
    fn decided(&self) -> Vec<(f64, usize)> {
        let pairs = self.rounds.first().map_or(0, |round| round.by_pair.len());
        let of_pair = |number: usize| {
            let rounds = self.rounds.iter().map(|round| round.by_pair[number]);
            let decided = rounds.filter(|pair| pair.decisions > 0.0);
            let all = decided.reduce(|all, pair| PairTimes {
                ns: all.ns + pair.ns,
                decisions: all.decisions + pair.decisions,
                matches: pair.matches,
            })?;
            Some((all.ns / all.decisions, all.matches))
        };
        (0..pairs).filter_map(of_pair).collect()
    }

    /// The matches of a pair on average.
    pub fn matches(&self) -> f64 {
        let decided = self.decided();
        let found: usize = decided.iter().map(|(_, found)| found).sum();
        found as f64 / decided.len() as f64
    }

    /// How many pairs have few matches, and the median time of one.
    pub fn few_matches(&self) -> (usize, f64) {
        let mut decided = self.decided();
        decided.retain(|(_, found)| *found <= FEW);
        let times: Vec<f64> = decided.iter().map(|(time, _)| *time).collect();
        (times.len(), median(&times))
    }

    /// The time of all pairs for each match of them.
    pub fn ns_per_match(&self) -> f64 {
        let decided = self.decided();
        let time: f64 = decided.iter().map(|(time, _)| time).sum();
        let found: usize = decided.iter().map(|(_, found)| found).sum();
        time / found as f64
    }

    /// How many times as long as the other side takes, over the pairs that both decided on in a
    /// round; by round.
    pub fn times_slower_than(&self, other: &Self) -> Vec<f64> {
        let ratio = |(our, their): (&Round, &Round)| {
            let (mut ours, mut theirs) = (0.0, 0.0);
            for (our, their) in our.by_pair.iter().zip(&their.by_pair) {
                if our.decisions > 0.0 && their.decisions > 0.0 {
                    ours += our.ns / our.decisions;
                    theirs += their.ns / their.decisions;
                }
            }
            ours / theirs
        };
        self.rounds.iter().zip(&other.rounds).map(ratio).collect()
    }

    /// The figures as JSON.
    pub fn json(&self) -> Value {
        let (few, p50_of_few) = self.few_matches();
        json!({
            "mean_ns": self.mean_ns(),
            "p50_ns": self.p50_ns(),
            "p99_ns": self.p99_ns(),
            "p50_ns_of_few_matches": (few > 0).then_some(p50_of_few),
            "pairs_of_few_matches": few,
            "decisions": self.rounds.iter().map(|round| round.decisions).sum::<usize>(),
        })
    }
}

/// The lowest and the highest.
pub fn range(figures: &[f64]) -> (f64, f64) {
    let all = figures.iter().copied();
    (
        all.clone().fold(f64::MAX, f64::min),
        all.fold(f64::MIN, f64::max),
    )
}

/// A comparison of sides that do not find the same says nothing.
pub fn compare(ours: &dyn Side, theirs: &dyn Side, pairs: &[Pair], count: usize) -> Outcome<()> {
    for (number, pair) in pairs.iter().enumerate().take(count) {
        let mut expected = ours.find(number, pair);
        expected.retain(|campaign| theirs.has(*campaign));
        let found = theirs.find(number, pair);
        if found != expected {
            let text = format!(
                "pair {number} ({}): {} finds {} campaigns, {} finds {}",
                pair.event,
                ours.name(),
                expected.len(),
                theirs.name(),
                found.len(),
            );
            return Err(text.into());
        }
    }
    Ok(())
}
