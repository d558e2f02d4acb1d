//! One turn of a shard: what it does of the jobs that it took, what becomes of each, and what it puts
//! back.
//!
//! Everybody with an event on the shard waits for a turn to end, so it is bounded: a transaction reads so
//! many people and applies events for so long, and what it has done by then is committed and is all that
//! the turn does. What is left goes back to where it stood, as a job that is taken in portions from then
//! on, and others get their turns in between. Its caller is answered once all of it is done.

use std::collections::HashSet;
use std::time::Instant;

use super::batch::{Unit, Verdict};
use super::decide::Undecided;
use super::decode::{Item, Rejection};
use super::failure::Failure;
use super::people_of_batch::Key;
use super::route::{Known, identities};
use super::shard::Shard;
use super::{Answer, Job, Outcome, Stored};
use crate::error::{Code, Error};
use crate::targeting::Targeting;

/// A job in a turn.
struct Caller {
    /// Its items are those that the turn leaves.
    job: Job,
    /// What became of those that it does not, or why nobody is told.
    answers: Result<Vec<Answer>, Error>,
    /// How many it took, and how many of these it did.
    taken: usize,
    done: usize,
}

impl Caller {
    /// Takes what is to be done now, as units of the batch.
    fn of(number: usize, mut job: Job, units: &mut Vec<Unit>) -> Self {
        let left = job.items.split_off(job.rows_now());
        let taken = std::mem::replace(&mut job.items, left);
        let mut caller = Self {
            answers: Ok(std::mem::take(&mut job.answered)),
            taken: taken.len(),
            done: 0,
            job,
        };
        let job = &mut caller.job;
        for (place, item) in taken {
            let mut unit = Unit::new(number, place, job.project, item, &job.known, job.wants);
            unit.remembered = job.remembered.take();
            unit.ahead.set(job.ahead.take());
            job.received -= unit.received;
            units.push(unit);
        }
        if let (true, Some(last)) = (job.items.is_empty(), units.last_mut()) {
            last.received += std::mem::take(&mut job.received);
        }
        caller
    }

    /// Notes what became of a unit.
    fn settle(&mut self, unit: Unit, verdict: Option<Verdict>, targeting: &Targeting) {
        self.done += 1;
        match (
            self.answers.as_mut(),
            outcome(unit.item, verdict, targeting),
        ) {
            (Ok(answers), Ok((outcome, undecided))) => answers.push(Answer {
                place: unit.place,
                outcome,
                undecided,
            }),
            // One item without an outcome keeps the whole request unanswered.
            (Ok(_), Err(error)) => self.answers = Err(error),
            (Err(_), _) => {}
        }
    }

    /// Answers, or gives back what is left to be done.
    fn end(self, mut left: Vec<Unit>) -> Option<Job> {
        let mut job = self.job;
        match self.answers {
            Ok(answers) if !(left.is_empty() && job.items.is_empty()) => {
                // One turn says little of the next: much of it may have been reading people.
                job.portion = match (self.done, job.portion) {
                    (0, portion) => portion,
                    (done, _) if done < self.taken => Some(done),
                    (_, portion) => portion.map(|portion| portion.saturating_mul(2)),
                };
                job.received += left.iter().map(|unit| unit.received).sum::<i64>();
                if let Some(first) = left.first_mut() {
                    job.remembered = first.remembered.take();
                    job.ahead = first.ahead.take();
                }
                let left = left.into_iter().map(|unit| (unit.place, unit.item));
                job.items.splice(0..0, left);
                job.answered = answers;
                // It gets on, so nobody need be refused for how long it has been here.
                job.queued_at = Instant::now();
                // Whom nobody knew may have been created meanwhile.
                job.known = Known::Unasked;
                Some(job)
            }
            answers => {
                // A caller that has given up does not listen any more; its repetition will be a
                // duplicate.
                let _ = job.reply.send(answers);
                None
            }
        }
    }
}

impl Shard {
    /// Does what it can of these jobs in one turn.
    pub(super) fn work(&mut self, jobs: Vec<Job>) {
        let mut units = Vec::with_capacity(jobs.iter().map(Job::rows_now).sum());
        let mut callers: Vec<Caller> = Vec::with_capacity(jobs.len());
        for (number, job) in jobs.into_iter().enumerate() {
            callers.push(Caller::of(number, job, &mut units));
        }
        if units.is_empty() {
            return;
        }
        let mut verdicts: Vec<Option<Verdict>> = Vec::new();
        verdicts.resize_with(units.len(), || None);
        let deciding = callers.iter().filter(|caller| caller.job.wants.matches);
        self.work.begin(deciding.map(|caller| caller.job.project));
        self.held.clear();
        let done = self.settle(&mut units, &mut verdicts);
        if let Err(error) = &done {
            self.metrics.gave_up();
            tracing::warn!(events = units.len(), %error, "a batch was not committed");
        }
        let mut left = units.split_off(done.unwrap_or(units.len()).min(units.len()));
        for (unit, verdict) in units.into_iter().zip(verdicts) {
            if let Some(caller) = callers.get_mut(unit.caller) {
                caller.settle(unit, verdict, &self.targeting);
            }
        }
        let mut put_back = Vec::new();
        for (number, caller) in callers.into_iter().enumerate().rev() {
            let first = left.partition_point(|unit| unit.caller < number);
            put_back.extend(caller.end(left.split_off(first)));
        }
        self.jobs.put_back(put_back);
    }

    /// Commits the units together if that works. When the database refuses the data of one of them
    /// for good, halves the batch until that one stands alone, and keeps it in the ledger. Returns how
    /// many of the first units it did; the others are for another turn.
    fn settle(
        &mut self,
        units: &mut [Unit],
        verdicts: &mut [Option<Verdict>],
    ) -> Result<usize, Error> {
        let refusal = match self.commit_into(units, verdicts) {
            Ok(done) => return Ok(done),
            Err(Failure::TooMuch { people }) if units.len() > 1 => {
                let few = first_units_about(units, people / 2);
                let (units, _) = units.split_at_mut(few);
                return self.settle(units, verdicts);
            }
            Err(Failure::Refused(reason)) => reason,
            Err(failure) => return Err(give_up(&failure)),
        };
        if let [unit] = units {
            let Item::Event(event) = &unit.item else {
                refused_rejection(&refusal);
                return Ok(1);
            };
            let message = "the database cannot hold this event".to_owned();
            let rejection = Rejection::of_event(event, Code::InvalidField, message);
            unit.item = Item::Rejected(rejection);
            return match self.commit_into(units, verdicts) {
                Ok(_) => {
                    tracing::warn!(
                        reason = refusal,
                        "the database refused an event; the ledger has it"
                    );
                    Ok(1)
                }
                Err(Failure::Refused(reason)) => {
                    refused_rejection(&reason);
                    Ok(1)
                }
                Err(failure) => Err(give_up(&failure)),
            };
        }
        self.metrics.bisected();
        let middle = units.len() / 2;
        let (left_units, right_units) = units.split_at_mut(middle);
        let (left, right) = verdicts.split_at_mut(middle);
        let done = self.settle(left_units, left)?;
        if done < middle {
            return Ok(done);
        }
        Ok(middle + self.settle(right_units, right)?)
    }

    fn commit_into(
        &mut self,
        units: &mut [Unit],
        verdicts: &mut [Option<Verdict>],
    ) -> Result<usize, Failure> {
        let committed = self.commit(units)?;
        let done = committed.len();
        for (slot, verdict) in verdicts.iter_mut().zip(committed) {
            *slot = Some(verdict);
        }
        Ok(done)
    }
}

/// How many of the first units name no more than so many people, but fewer than all and one at least.
fn first_units_about(units: &[Unit], people: usize) -> usize {
    let mut named: HashSet<Key<'_>> = HashSet::new();
    let mut within = 0;
    for unit in units {
        if let Item::Event(event) = &unit.item {
            let (own, linked) = identities(event);
            let both = own.into_iter().chain(linked);
            named.extend(both.map(|identity| (unit.project, identity)));
        }
        if named.len() > people {
            break;
        }
        within += 1;
    }
    within.clamp(1, (units.len() / 2).max(1))
}

/// The caller of a rejection that cannot be kept hears 503; the others of its batch have nothing to do
/// with it.
fn refused_rejection(reason: &str) {
    tracing::error!(reason, "the database refuses a rejection");
}

/// What callers hear of a batch that was not committed; the log has the reason.
fn give_up(failure: &Failure) -> Error {
    tracing::warn!(reason = %failure, "a transaction was given up");
    Error::DatabaseUnavailable
}

/// What became of an item, and what is still to be decided of it. Without either its caller tries again.
fn outcome(
    item: Item,
    verdict: Option<Verdict>,
    targeting: &Targeting,
) -> Result<(Outcome, Option<Box<Undecided>>), Error> {
    let outcome = match (item, verdict) {
        (
            Item::Event(event),
            Some(Verdict::Stored {
                id,
                duplicate,
                matched,
                traits,
            }),
        ) => {
            let (matched, undecided) = matched.told(targeting, duplicate)?;
            let stored = Stored {
                event: *event,
                id,
                duplicate,
                matched,
                traits,
            };
            return Ok((Outcome::Stored(Box::new(stored)), undecided));
        }
        (_, Some(Verdict::Rejected(rejection))) => Outcome::Rejected(rejection),
        (_, None | Some(Verdict::Unsettled)) | (Item::Event(_), Some(Verdict::Kept)) => {
            return Err(Error::DatabaseUnavailable);
        }
        (Item::Rejected(rejection), Some(_)) => Outcome::Rejected(rejection),
    };
    Ok((outcome, None))
}
