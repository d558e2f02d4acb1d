//! What a bench's figures are to reach.

use serde_json::{Value, json};

use crate::report::{self, Outcome, line, table};

/// Something that is to be reached.
#[derive(Debug, Clone)]
pub struct Goal {
    /// What it is.
    pub what: String,
    /// What was measured.
    pub value: f64,
    /// The lowest and highest round.
    pub rounds: (f64, f64),
    /// The bound.
    pub bound: f64,
    /// Whether the value is to be at most the bound rather than at least.
    pub at_most: bool,
}

impl Goal {
    /// A figure of one round that is to be at least the bound.
    pub fn at_least(what: &str, value: f64, bound: f64) -> Self {
        Self {
            what: what.to_owned(),
            value,
            rounds: (value, value),
            bound,
            at_most: false,
        }
    }

    /// A figure of one round that is to be at most the bound.
    pub fn at_most(what: &str, value: f64, bound: f64) -> Self {
        Self {
            at_most: true,
            ..Self::at_least(what, value, bound)
        }
    }

    fn is_reached(&self) -> bool {
        if self.at_most {
            self.value <= self.bound
        } else {
            self.value >= self.bound
        }
    }

    /// The goal as JSON.
    pub fn json(&self) -> Value {
        json!({
            "what": self.what,
            "value": self.value,
            "lowest": self.rounds.0,
            "highest": self.rounds.1,
            "bound": self.bound,
            "at_most": self.at_most,
            "reached": self.is_reached(),
        })
    }
}

/// Where `--must` is given, a goal that is missed is a failure.
pub fn expect_reached(goals: &[Goal]) -> Outcome<()> {
    let missed: Vec<&str> = goals
        .iter()
        .filter(|goal| !goal.is_reached())
        .map(|goal| &*goal.what)
        .collect();
    if missed.is_empty() || !report::flag("--must") {
        return Ok(());
    }
    Err(format!("missed: {}", missed.join("; ")).into())
}

/// Prints the goals.
pub fn print_goals(goals: &[Goal]) {
    line("");
    let rows: Vec<Vec<String>> = goals
        .iter()
        .map(|goal| {
            let (low, high) = goal.rounds;
            let bound = if goal.at_most { "at most" } else { "at least" };
            vec![
                goal.what.clone(),
                format!("{:.2}", goal.value),
                format!("{low:.2} to {high:.2}"),
                format!("{bound} {}", goal.bound),
                if goal.is_reached() {
                    "reached"
                } else {
                    "missed"
                }
                .to_owned(),
            ]
        })
        .collect();
    table(&["to be reached", "", "rounds", "bound", ""], &rows);
}
