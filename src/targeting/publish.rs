//! Checks a campaign that an admin wants to save: what cannot be saved is refused, and what its
//! author probably did not mean is a [`Warning`].
//!
//! A campaign that would be live and could never be shown is refused too, unless the admin insists.
//! A campaign in the seed's own dialect, which has no `targeting`, is not: those who send it do not
//! know how to insist.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use chrono::DateTime;
use serde_json::{Map, Value};

use super::check::{refuse_rule, rule_warnings, unknown_segment};
use super::{Targeting, Warning};
use crate::error::{Error, FieldError, WarningCode};
use crate::matcher::{Campaign, CampaignRow, FindingKind, Refusal, Snapshot};
use crate::model::ProjectId;
use crate::rules::{Mentioned, mentions};
use crate::store::seen;

/// How many campaigns of a slot are compared with the one that is saved.
const RIVALS_MAX: usize = 100;

/// How many names are looked for among those that were seen.
const NAMES_MAX: usize = 20;

/// How long a save waits for what was seen.
const SEEN_WAIT: Duration = Duration::from_millis(150);

/// What would keep a campaign from people, or choose what they see of it, had it a gate: see
/// [`crate::matcher::Gate`].
const NOT_ENFORCED: [&str; 4] = ["frequency", "holdout", "rollout", "variants"];

/// Beckon keeps these times with the person, however long ago they are.
const KEPT_TIMES: [&str; 2] = ["user.created_at", "user.last_seen_at"];

impl Targeting {
    /// Checks a campaign: schedule, trigger, priority, segments, rules and targeting. `id` is its
    /// own, if it has one already. With `force` it may be live and never shown.
    ///
    /// # Errors
    /// What cannot be compiled, and [`Error::NeverShown`].
    pub fn check_campaign(
        &self,
        project: ProjectId,
        id: Option<&str>,
        body: &Map<String, Value>,
        force: bool,
    ) -> Result<Vec<Warning>, Error> {
        let limits = &self.0.options.rules;
        let campaign = self
            .compiled(body)
            .map_err(|refusal| refuse(refusal, body))?;
        let snapshot = self.snapshot(project);
        let targeting = campaign.targeting();
        let condition = targeting.map_or_else(Vec::new, |condition| condition.warnings(limits));
        let mut warnings: Vec<_> = rule_warnings("/targeting", &condition).collect();
        warnings.extend(rule_warnings("/rules", campaign.rules().warnings()));
        for (pointer, reference) in campaign.segment_references() {
            if snapshot.segments().find(reference).is_none() {
                warnings.push(unknown_segment(pointer, reference));
            }
        }
        let mut refused = Vec::new();
        for finding in campaign.findings(limits) {
            let code = match finding.kind {
                FindingKind::NeverTrue => WarningCode::NeverTrue,
                FindingKind::AlwaysTrue => WarningCode::AlwaysTrue,
            };
            let insisted = force || !campaign.is_active() || campaign.targeting().is_none();
            if code == WarningCode::NeverTrue && !insisted {
                let field = FieldError::body(&finding.pointer, None, finding.message);
                refused.push(field.with_code(code.as_str()));
            }
            warnings.push(Warning {
                code,
                pointer: finding.pointer,
                message: finding.message.to_owned(),
            });
        }
        if !refused.is_empty() {
            return Err(Error::NeverShown { findings: refused });
        }
        let now = self.0.clock.now();
        if campaign.schedule().end.is_some_and(|end| end <= now) {
            warnings.push(Warning {
                code: WarningCode::ScheduleEnded,
                pointer: "/schedule/end".to_owned(),
                message: "the schedule is over, so nobody is shown the campaign".to_owned(),
            });
        }
        warnings.extend(not_enforced(body));
        warnings.extend(shadow(&campaign, id, &snapshot));
        Ok(warnings)
    }

    /// Warnings that need the database: names that were never seen, windows longer than retention.
    /// Nothing where it does not answer in time.
    pub async fn compare_with_seen(
        &self,
        project: ProjectId,
        body: &Map<String, Value>,
    ) -> Vec<Warning> {
        let named = Named::of(body);
        if named.is_empty() {
            return Vec::new();
        }
        let asked = self.0.store.run(move |connection| {
            let events = names(&named.events);
            let unseen_events = seen::unseen_events(connection, project, &events)?;
            let traits = names(&named.traits);
            let unseen_traits = seen::unseen_traits(connection, project, &traits)?;
            let days = seen::retention_days(connection, project)?;
            let mut warnings = Vec::new();
            never_seen(
                &named.events,
                unseen_events,
                WarningCode::EventNeverSeen,
                &mut warnings,
            );
            never_seen(
                &named.traits,
                unseen_traits,
                WarningCode::TraitNeverSeen,
                &mut warnings,
            );
            warnings.extend(
                named
                    .windows
                    .into_iter()
                    .filter_map(|it| too_long(it, days)),
            );
            Ok(warnings)
        });
        match tokio::time::timeout(SEEN_WAIT, asked).await {
            Ok(Ok(warnings)) => warnings,
            Ok(Err(_)) | Err(_) => {
                tracing::debug!("a campaign was saved without a look at what was seen");
                Vec::new()
            }
        }
    }

    /// The cost of a stored campaign, and whether the index can use a condition of it.
    ///
    /// # Errors
    /// Why it cannot be compiled.
    pub fn effort_of(&self, body: &Map<String, Value>) -> Result<(u64, bool), Refusal> {
        let campaign = self.compiled(body)?;
        Ok((campaign.cost(), campaign.is_indexed()))
    }

    /// The ids of a page of live campaigns, the most expensive first, and how many there are.
    pub fn most_expensive(
        &self,
        project: ProjectId,
        limit: i64,
        offset: i64,
    ) -> (Vec<String>, i64) {
        let snapshot = self.snapshot(project);
        let mut campaigns: Vec<_> = snapshot.campaigns().iter().collect();
        campaigns.sort_by_key(|campaign| (Reverse(campaign.cost()), campaign.stored()));
        let whole = |number: i64| usize::try_from(number).unwrap_or(0);
        let page = campaigns.iter().skip(whole(offset)).take(whole(limit));
        let ids = page.map(|campaign| campaign.id.clone()).collect();
        (ids, i64::try_from(campaigns.len()).unwrap_or(i64::MAX))
    }

    fn compiled(&self, body: &Map<String, Value>) -> Result<Campaign, Refusal> {
        let row = CampaignRow {
            id: String::new(),
            seq: 0,
            version: 0,
            body: body.clone(),
            created_at: DateTime::UNIX_EPOCH,
            updated_at: None,
        };
        Campaign::compile(&row, &self.0.options.rules)
    }
}

fn refuse(refusal: Refusal, body: &Map<String, Value>) -> Error {
    match refusal {
        Refusal::Rule(error) => refuse_rule(error),
        Refusal::Field { pointer, message } => Error::field(FieldError::body(
            pointer.trim_start_matches('/'),
            Value::Object(body.clone()).pointer(&pointer),
            message,
        )),
    }
}

fn not_enforced(body: &Map<String, Value>) -> impl Iterator<Item = Warning> {
    let given = |name: &&str| body.get(*name).is_some_and(|value| !value.is_null());
    NOT_ENFORCED.into_iter().filter(given).map(|name| Warning {
        code: WarningCode::NotEnforced,
        pointer: format!("/{name}"),
        message: "it is kept, and changes nothing yet: the campaign is shown as if it had none"
            .to_owned(),
    })
}

/// A live campaign of the same slot that goes before this one and is shown whenever it is.
fn shadow(campaign: &Campaign, id: Option<&str>, snapshot: &Snapshot) -> Option<Warning> {
    let slot = campaign.slot()?;
    let is_rival = |rival: &&Arc<Campaign>| {
        rival.slot() == Some(slot)
            && rival.priority() > campaign.priority()
            && id != Some(rival.id.as_str())
    };
    let mut rivals: Vec<_> = snapshot.campaigns().iter().filter(is_rival).collect();
    rivals.sort_by_key(|rival| (Reverse(rival.priority()), Reverse(rival.stored())));
    let by = rivals
        .into_iter()
        .take(RIVALS_MAX)
        .find(|rival| rival.is_shown_whenever(campaign))?;
    Some(Warning {
        code: WarningCode::Shadowed,
        pointer: "/slot".to_owned(),
        message: format!(
            "campaign {} is in the same slot, has a higher priority, and is shown to everybody \
             whom this one would be shown to",
            by.id
        ),
    })
}

/// What a campaign names, with pointers.
#[derive(Debug, Default)]
struct Named {
    events: Vec<(String, String)>,
    traits: Vec<(String, String)>,
    windows: Vec<(String, i64)>,
}

impl Named {
    fn of(body: &Map<String, Value>) -> Self {
        let mut named = Named::default();
        if let Some(Value::String(trigger)) = body.get("trigger").filter(|it| *it != "") {
            named.events.push(("/trigger".to_owned(), trigger.clone()));
        }
        let rules = body.get("rules").and_then(Value::as_array);
        for (index, rule) in rules.into_iter().flatten().enumerate() {
            if let (true, Some(Value::String(field))) = (
                rule.get("type").is_some_and(|it| it == "attribute"),
                rule.get("field"),
            ) {
                let pointer = format!("/rules/{index}/field");
                named.traits.push((pointer, field.clone()));
            }
        }
        let found = body.get("targeting").map(mentions).unwrap_or_default();
        for mention in found {
            let pointer = format!("/targeting{}", mention.pointer);
            match mention.what {
                Mentioned::Trait(name) => named.traits.push((pointer, name)),
                Mentioned::EventName(name) => named.events.push((pointer, name)),
                Mentioned::Window {
                    path: Some(path), ..
                } if KEPT_TIMES.contains(&path.as_str()) => {}
                Mentioned::Window { seconds, .. } => named.windows.push((pointer, seconds)),
            }
        }
        for list in [&mut named.events, &mut named.traits] {
            // The database cannot compare with it, and has nothing of the kind.
            list.retain(|(_, name)| !name.contains('\0'));
            let mut seen = Vec::new();
            list.retain(|(_, name)| {
                let is_new = !seen.contains(name) && seen.len() < NAMES_MAX;
                if is_new {
                    seen.push(name.clone());
                }
                is_new
            });
        }
        named
    }

    fn is_empty(&self) -> bool {
        self.events.is_empty() && self.traits.is_empty() && self.windows.is_empty()
    }
}

fn names(list: &[(String, String)]) -> Vec<&str> {
    list.iter().map(|(_, name)| name.as_str()).collect()
}

fn never_seen(
    named: &[(String, String)],
    unseen: Option<Vec<String>>,
    code: WarningCode,
    warnings: &mut Vec<Warning>,
) {
    let unseen = unseen.unwrap_or_default();
    let found = named.iter().filter(|(_, name)| unseen.contains(name));
    warnings.extend(found.map(|(pointer, name)| Warning {
        code,
        pointer: pointer.clone(),
        message: match code {
            WarningCode::EventNeverSeen => format!("no event named {name:?} is stored"),
            _ => format!("nobody has a trait named {name:?}"),
        },
    }));
}

fn too_long((pointer, seconds): (String, i64), retention_days: i32) -> Option<Warning> {
    let is_longer = seconds > i64::from(retention_days) * 86_400;
    is_longer.then(|| Warning {
        code: WarningCode::WindowExceedsRetention,
        pointer,
        message: format!(
            "the window is longer than the {retention_days} days for which events are kept, so \
             nobody can look up what happened in all of it"
        ),
    })
}
