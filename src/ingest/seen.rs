//! When people were last seen: noted at once, written now and then.
//!
//! Writing it for every event would cost more than the event. The time moves in memory when it is a
//! grain behind, and the database follows with others' in a transaction of its own, in a narrow
//! table: a person's row is wide. What a crash loses of it is at most [`FLUSH_AFTER`] old, and the
//! events say the same.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use diesel::{PgConnection, QueryResult, RunQueryDsl};

use super::statements::TouchPeople;
use crate::model::PersonId;
use crate::targeting::PersonState;

/// How far the stored time of a person's last event may lag behind, so that known people are not
/// written for every event.
pub const LAST_SEEN_GRAIN: TimeDelta = TimeDelta::minutes(10);

/// How far ahead of this node's clock another node's may have been that was right.
const AHEAD_MAX: TimeDelta = TimeDelta::hours(1);

/// How long what was noted waits for more.
pub(super) const FLUSH_AFTER: Duration = Duration::from_secs(1);

/// The most people that are written at once.
const FLUSH_ROWS: usize = 500;

/// The most people that wait while the database cannot be reached; more are not noted.
const WAITING_MAX: usize = 50_000;

/// The people whose stored times have to follow, by number.
#[derive(Debug, Default)]
pub(super) struct Seen {
    waiting: BTreeMap<i64, DateTime<Utc>>,
    since: Option<Instant>,
    /// Who is seen in the batch that is tried, and when, as far as that moves their times.
    in_batch: HashMap<PersonId, DateTime<Utc>>,
}

impl Seen {
    /// Begins a batch, or another attempt at one.
    pub(super) fn begin(&mut self) {
        self.in_batch.clear();
    }

    /// When a person was last seen before the next event of the batch.
    pub(super) fn last(&self, person: &PersonState) -> DateTime<Utc> {
        let known = || person.last_seen.at();
        self.in_batch.get(&person.id).copied().unwrap_or_else(known)
    }

    /// An event of the batch is by this person: those after it are told of it, though it is not
    /// committed yet.
    pub(super) fn in_batch(&mut self, person: &PersonState, at: DateTime<Utc>) {
        if moves(self.last(person), at) {
            self.in_batch.insert(person.id, at);
        }
    }

    /// Brings a person who was read from the database up to what is not written yet.
    pub(super) fn catch_up(&self, person: &PersonState) {
        if let Some(&at) = self.waiting.get(&person.id.0) {
            follow(person, at);
        }
    }

    /// Notes that a person was seen now, if the time known is a grain old, or so far ahead that a
    /// wrong clock has set it.
    pub(super) fn note(&mut self, person: &PersonState, at: DateTime<Utc>) {
        if self.waiting.len() < WAITING_MAX && follow(person, at) {
            self.waiting.insert(person.id.0, at);
            self.since.get_or_insert_with(Instant::now);
        }
    }

    /// When the next flush is due, if anything waits.
    pub(super) fn due_at(&self) -> Option<Instant> {
        self.since.map(|since| since + FLUSH_AFTER)
    }

    /// Whether they have waited long enough to be written.
    pub(super) fn is_due(&self) -> bool {
        self.due_at().is_some_and(|at| at <= Instant::now())
    }

    /// Whether nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Waits for another while, as when the database cannot be reached.
    pub(super) fn put_off(&mut self) {
        self.since = (!self.waiting.is_empty()).then(Instant::now);
    }

    /// Writes some of those who wait. The others are due at once, so that batches get their turn
    /// in between. On an error all of them go on waiting.
    pub(super) fn flush(&mut self, connection: &mut PgConnection) -> QueryResult<()> {
        let (ids, seen_at): (Vec<i64>, Vec<DateTime<Utc>>) =
            self.waiting.iter().take(FLUSH_ROWS).unzip();
        let written = TouchPeople {
            ids: &ids,
            seen_at: &seen_at,
        }
        .execute(connection);
        if let Err(error) = written {
            self.put_off();
            return Err(error);
        }
        for id in &ids {
            self.waiting.remove(id);
        }
        if self.waiting.is_empty() {
            self.since = None;
        }
        Ok(())
    }
}

/// Whether an event at this time moves the time that is known.
fn moves(known: DateTime<Utc>, at: DateTime<Utc>) -> bool {
    !(-AHEAD_MAX..LAST_SEEN_GRAIN).contains(&(at - known))
}

/// Moves a person's time, if this does.
fn follow(person: &PersonState, at: DateTime<Utc>) -> bool {
    let known = person.last_seen.at();
    if !moves(known, at) {
        return false;
    }
    match at < known {
        true => person.last_seen.set_back(at),
        false => person.last_seen.advance(at),
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::PersonId;

    fn seen_at(last_seen: DateTime<Utc>) -> PersonState {
        PersonState {
            id: PersonId(1),
            home: 0,
            user_id: None,
            traits: "{}".into(),
            created_at: DateTime::UNIX_EPOCH,
            last_seen: last_seen.into(),
        }
    }

    #[test]
    fn what_is_known_moves_by_the_grain_and_back_only_from_what_a_wrong_clock_has_set() {
        let now = DateTime::UNIX_EPOCH + TimeDelta::days(20_000);
        let (little, second) = (TimeDelta::minutes(1), TimeDelta::seconds(1));
        for (known, then) in [
            (now - LAST_SEEN_GRAIN, Some(now)),
            (now - LAST_SEEN_GRAIN + second, None),
            (now + little, None),
            (now + AHEAD_MAX, None),
            (now + AHEAD_MAX + second, Some(now)),
            (now + TimeDelta::days(365), Some(now)),
        ] {
            let (mut seen, person) = (Seen::default(), seen_at(known));
            seen.note(&person, now);
            assert_eq!(person.last_seen.at(), then.unwrap_or(known), "{known}");
            assert_eq!(seen.waiting.get(&1).copied(), then, "{known}");
        }
    }
}
