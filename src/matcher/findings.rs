//! What can be said about a campaign before anybody has seen it: that it can never be shown, that
//! its targeting holds for everybody, that another campaign hides it.
//!
//! Everything said is certain; that nothing is said means nothing.

use super::Campaign;
use crate::rules::native::{Domain, Node, Outcomes, possible};
use crate::rules::{Condition, Expr, Limits, Operator};

/// Something that is certain about a campaign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What it is.
    pub kind: FindingKind,
    /// Where in the campaign, as an RFC 6901 JSON pointer; empty for the campaign as a whole.
    pub pointer: String,
    /// The same for a human being.
    pub message: &'static str,
}

/// What a [`Finding`] says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FindingKind {
    /// The campaign is never shown to anybody, whatever happens.
    NeverTrue,
    /// The targeting leaves nobody out.
    AlwaysTrue,
}

impl Finding {
    fn never(pointer: impl Into<String>, message: &'static str) -> Self {
        Finding {
            kind: FindingKind::NeverTrue,
            pointer: pointer.into(),
            message,
        }
    }
}

impl Campaign {
    /// What is certain about the campaign, its status and its schedule left aside.
    pub fn findings(&self, limits: &Limits) -> Vec<Finding> {
        if let Some(finding) = self.never_shown(limits) {
            return vec![finding];
        }
        match &self.targeting {
            // Who writes `true` means it.
            Some(condition) if condition.source() != "true" && self.always(condition.node()) => {
                vec![Finding {
                    kind: FindingKind::AlwaysTrue,
                    pointer: "/targeting".to_owned(),
                    message: "this holds for everybody, so the campaign is shown as if it were \
                              not there",
                }]
            }
            _ => Vec::new(),
        }
    }

    fn never_shown(&self, limits: &Limits) -> Option<Finding> {
        if self.trigger.is_none() && self.mentions_event() {
            return Some(Finding::never(
                "/trigger",
                "the rules or the targeting are about an event, and without a trigger no event \
                 makes this campaign a candidate",
            ));
        }
        let rules = self.rules().node();
        if !self.may_hold(&[&rules]) {
            return Some(Finding::never("/rules", "these rules never hold together"));
        }
        if !self.may_hold(&[&self.extras().gates]) {
            return Some(Finding::never(
                "/segments",
                "nobody is in these segments and in none of the excluded ones",
            ));
        }
        let condition = self.targeting.as_ref()?;
        if !self.may_hold(&[condition.node()]) {
            let mut pointer = "/targeting".to_owned();
            if let Some(targeting) = condition.expr(limits) {
                self.narrow(&targeting, &mut pointer);
            }
            return Some(Finding::never(pointer, "this never holds"));
        }
        if !self.may_hold(&[&self.extras().gates, condition.node()]) {
            return Some(Finding::never(
                "",
                "the targeting never holds for those whom the rules and segments let through",
            ));
        }
        None
    }

    /// Follows `and` to an operand that never holds by itself.
    fn narrow(&self, condition: &Expr, pointer: &mut String) {
        let mut whole = condition;
        while let Expr::Call(Operator::And, operands) = whole {
            let culprit = operands
                .iter()
                .enumerate()
                .find(|(_, operand)| !self.may_hold(&[&Node::of_condition(operand)]));
            let Some((index, operand)) = culprit else {
                return;
            };
            pointer.push_str(&format!("/and/{index}"));
            whole = operand;
        }
    }

    /// Whether this campaign, if it is live, is shown whenever `other` is, at least as far as the
    /// gates go that there are.
    pub fn is_shown_whenever(&self, other: &Campaign) -> bool {
        let covers_fetch = !self.mentions_event() || other.mentions_event();
        let covers_event = other.trigger.is_none() || self.trigger == other.trigger;
        let (ours, theirs) = (&self.schedule, &other.schedule);
        let covers_start = ours
            .start
            .is_none_or(|start| theirs.start.is_some_and(|theirs| start <= theirs));
        let covers_end = ours
            .end
            .is_none_or(|end| theirs.end.is_some_and(|theirs| theirs <= end));
        if !(self.is_active && covers_fetch && covers_event && covers_start && covers_end) {
            return false;
        }
        let mut theirs = vec![&other.extras().gates];
        theirs.extend(other.targeting.as_ref().map(Condition::node));
        let targeting_follows = match (&self.targeting, &other.targeting) {
            (None, _) => true,
            (Some(ours), Some(theirs)) if ours.source() == theirs.source() => true,
            (Some(ours), _) => other.implies(&theirs, ours.node()),
        };
        targeting_follows && other.implies(&theirs, &self.extras().gates)
    }

    /// Whether the index can use a condition of it, or it has none. If not, it is evaluated at every
    /// event that is its trigger.
    pub fn is_indexed(&self) -> bool {
        let mut parts = Vec::new();
        self.extras().gates.conjuncts(&mut parts);
        if let Some(targeting) = &self.targeting {
            targeting.node().conjuncts(&mut parts);
        }
        let is_usable = |part: &&Node| match part {
            Node::Always(outcomes) => !outcomes.may_hold(),
            Node::Segment(_) => true,
            Node::Not(inner) if matches!(**inner, Node::Segment(_)) => true,
            part => Domain::of(part).is_some(),
        };
        parts.retain(|part| !matches!(part, Node::Always(Outcomes::YES)));
        parts.is_empty() || parts.iter().any(is_usable)
    }

    /// The slot the campaign shares with others, if it names one.
    pub fn slot(&self) -> Option<&str> {
        self.extras().slot.as_deref()
    }

    /// Whether the conclusion holds wherever all these nodes do.
    fn implies(&self, nodes: &[&Node], conclusion: &Node) -> bool {
        let may_end_as = |outcome| {
            let mut goals: Vec<_> = nodes.iter().map(|node| (*node, Outcomes::YES)).collect();
            goals.push((conclusion, outcome));
            possible(&goals, self.event_name())
        };
        !may_end_as(Outcomes::NO) && !may_end_as(Outcomes::FAILS)
    }

    fn may_hold(&self, nodes: &[&Node]) -> bool {
        let goals: Vec<_> = nodes.iter().map(|node| (*node, Outcomes::YES)).collect();
        possible(&goals, self.event_name())
    }

    fn always(&self, node: &Node) -> bool {
        self.implies(&[], node)
    }

    /// The only name that an event can have by the time conditions are evaluated. Conditions that
    /// read the event are evaluated with one only.
    fn event_name(&self) -> Option<&str> {
        self.trigger.as_deref()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use serde_json::{Value, json};

    use super::*;
    use crate::matcher::CampaignRow;
    use crate::rules::PATTERNS_COMPILED;

    #[test]
    fn the_operand_that_never_holds_is_found_by_reading_the_rule_once() {
        let mut targeting = vec![json!(false)];
        targeting.extend((0..16).map(|n| json!({"matches": [{"var": "user.id"}, n.to_string()]})));
        let mut targeting = json!({"and": targeting});
        for _ in 0..50 {
            let inner = Value::Array(vec![json!({"var": "user.traits.a"}), targeting]);
            targeting = Value::Object([("and".to_owned(), inner)].into_iter().collect());
        }
        let row = CampaignRow::of("c", &json!({ "targeting": targeting }));
        let limits = Limits::default();
        let campaign = Campaign::compile(&row, &limits).unwrap();
        let before = PATTERNS_COMPILED.get();
        let findings = campaign.findings(&limits);
        let pointer = format!("/targeting{}/and/0", "/and/1".repeat(50));
        assert_eq!(findings.first().unwrap().pointer, pointer);
        assert_eq!(PATTERNS_COMPILED.get() - before, 16);
    }
}
