//! A person as of a moment that has passed.
//!
//! Traits are kept as they are now. As of then they are rebuilt from the identify calls that are
//! stored: their traits are merged in the order in which they were received. A trait that the person
//! has now and that no stored call explains (it came with an import, or its call is past its
//! retention) counts as having been there.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use diesel::{PgConnection, QueryResult};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::model::{ProjectId, parse_traits};
use crate::store::history::{self, IdentifyCall, Place, Side};

/// The most identify calls that are read on each side of the moment.
const CALLS_MAX: usize = 1_000;

/// The most names of traits that are listed.
const NAMES_MAX: usize = 100;

/// Where something that a decision needs was taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// As it is now.
    Current,
    /// From stored history, as it was then.
    History,
}

/// What the facts of a decision rest on.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct AsOf {
    /// The moment of the decision.
    pub at: DateTime<Utc>,
    /// The person's traits.
    pub traits: TraitsAsOf,
    /// The campaigns.
    pub campaigns: DefinitionsAsOf,
    /// The segments; no history is kept of them.
    pub segments: Source,
}

/// What a person's traits rest on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct TraitsAsOf {
    /// `history`: rebuilt from stored identify calls.
    pub source: Source,
    /// Whether they are certainly what they were. False when any of the reasons below applies.
    pub certain: bool,
    /// How many stored identify calls they were rebuilt from.
    pub identify_calls: usize,
    /// True when there were more calls or events than are read, so that calls were left out.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
    /// True when the person is older than the oldest event that is kept.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub older_than_history: bool,
    /// Traits that no stored call explains; they are used as they are now. At most 100 names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unexplained: Vec<String>,
    /// Traits that are known from later calls only; they count as absent. At most 100 names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub set_later: Vec<String>,
    /// True when the person came with an import and traits are known from later calls only: the import
    /// may have brought them, with other values.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub imported: bool,
    /// How many people were merged into this one, then or later; their calls count as this one's.
    #[serde(skip_serializing_if = "is_zero")]
    pub merged_people: usize,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde asks for a reference"
)]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// What the campaigns rest on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct DefinitionsAsOf {
    /// `history`: as they were then.
    pub source: Source,
    /// How many campaigns have no history and were taken as they are now.
    #[serde(skip_serializing_if = "is_zero")]
    pub without_history: usize,
    /// How many could not be compiled and were left out, as they were then.
    #[serde(skip_serializing_if = "is_zero")]
    pub left_out: usize,
}

impl DefinitionsAsOf {
    /// The live ones.
    pub(super) const CURRENT: Self = Self {
        source: Source::Current,
        without_history: 0,
        left_out: 0,
    };
}

impl TraitsAsOf {
    /// As they are.
    pub(crate) const CURRENT: Self = Self {
        source: Source::Current,
        certain: true,
        identify_calls: 0,
        truncated: false,
        older_than_history: false,
        unexplained: Vec::new(),
        set_later: Vec::new(),
        imported: false,
        merged_people: 0,
    };
}

/// Whose traits, and what is known of them now.
#[derive(Debug)]
pub(super) struct Known<'k> {
    pub(super) project: ProjectId,
    /// The person and everybody merged into them.
    pub(super) family: &'k [i64],
    pub(super) traits: Map<String, Value>,
    pub(super) created_at: DateTime<Utc>,
}

/// The traits after everything that was received up to this place, which is included.
pub(super) fn traits(
    connection: &mut PgConnection,
    known: Known<'_>,
    place: Place,
) -> QueryResult<(Map<String, Value>, TraitsAsOf)> {
    let horizon = history::horizon(connection, known.project)?;
    let mut calls = |side| {
        let (project, family) = (known.project, known.family);
        history::identify_calls(connection, project, family, place, side, CALLS_MAX)
    };
    let (later, is_later_cut) = calls(Side::After)?;
    let merged_people = known.family.len().saturating_sub(1);
    if later.is_empty() && !is_later_cut && merged_people == 0 && place.0.date_naive() >= horizon {
        // Nothing has changed since.
        return Ok((known.traits, TraitsAsOf::CURRENT));
    }
    let (earlier, is_earlier_cut) = calls(Side::UpTo)?;
    let truncated = is_earlier_cut || is_later_cut;
    let older_than_history = known.created_at.date_naive() < horizon;
    let mut rebuilt = Map::new();
    for call in earlier.iter().rev() {
        rebuilt.extend(traits_of(call));
    }
    let later: BTreeSet<String> = later
        .iter()
        .flat_map(|call| traits_of(call).into_iter().map(|(name, _)| name))
        .collect();
    let mut unexplained = Vec::new();
    for (name, value) in known.traits {
        if !rebuilt.contains_key(&name) && !later.contains(&name) {
            unexplained.push(name.clone());
            rebuilt.insert(name, value);
        }
    }
    let set_later = later.into_iter().filter(|name| !rebuilt.contains_key(name));
    let set_later: Vec<String> = set_later.take(NAMES_MAX).collect();
    let imported =
        !set_later.is_empty() && history::has_imported(connection, known.project, known.family)?;
    let is_certain = unexplained.is_empty() && !truncated && !older_than_history && !imported;
    unexplained.truncate(NAMES_MAX);
    Ok((
        rebuilt,
        TraitsAsOf {
            source: Source::History,
            certain: is_certain && merged_people == 0,
            identify_calls: earlier.len(),
            truncated,
            older_than_history,
            unexplained,
            set_later,
            imported,
            merged_people,
        },
    ))
}

fn traits_of(call: &IdentifyCall) -> Map<String, Value> {
    call.traits.as_deref().map(parse_traits).unwrap_or_default()
}
