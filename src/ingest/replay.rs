//! Rejected events, sent through ingest again after a fix: a limit raised, a newer version.
//!
//! A replay decodes the stored payload under today's rules and submits it as a client's call. The
//! event keeps the time at which it happened and is received now. It is idempotent by its message
//! id; one without gets an id made from its row, so a second replay is a duplicate at worst.
//!
//! In the ledger a replay is a call of its own: the day of the first call keeps its *rejected*, and
//! the day of the replay counts one more *received* and one more *stored* (or *duplicate*). What
//! decoding refuses again never reaches ingest and counts nowhere. What ingest itself refuses (a
//! person's traits or identities, the database) is kept as a rejected event of its own that names the one it is a
//! replay of; a replay by filter leaves those out, so attempts do not multiply.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use diesel::PgConnection;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::decode::{self, DecodeLimits, Item, Kept, Rejection, Route};
use super::{Ingest, Outcome, Submission, Wanted};
use crate::clock::Clock;
use crate::error::{Code, Error, FieldError};
use crate::model::{EventId, MessageId, ProjectId};
use crate::store::Store;
use crate::store::audit::{self, Change};
use crate::store::rejected::{self, Place, RejectedFilter, StoredRejection};

/// The most rejected events that one call replays.
pub const REPLAYED_MAX: i64 = 500;

const NOT_FOUND: Error = Error::NotFound("Rejected event");

/// What replays need.
#[derive(Debug, Clone)]
pub struct Replayer {
    /// Where events go.
    pub ingest: Ingest,
    /// Where rejected events are.
    pub store: Store,
    /// Today's limits.
    pub limits: DecodeLimits,
    /// Where the time comes from.
    pub clock: Clock,
    /// Whose events.
    pub project: ProjectId,
    /// Who asks, for the audit log.
    pub actor: Arc<str>,
    /// By which request.
    pub request_id: Option<String>,
}

/// What became of a replay.
#[derive(Debug, Clone)]
pub enum ReplayOutcome {
    /// It is stored now.
    Stored(EventId),
    /// It had been stored before, by a replay or by its client.
    Duplicate(EventId),
    /// It is still refused, and stays as it was.
    Refused {
        /// The stable code.
        code: Code,
        /// The reason in words.
        message: String,
        /// Each refused field.
        fields: Vec<FieldError>,
    },
}

/// One rejected event that was replayed.
#[derive(Debug, Clone)]
pub struct Replayed {
    /// Its number.
    pub id: i64,
    /// What became of it.
    pub outcome: ReplayOutcome,
}

/// A piece of a replay by filter.
#[derive(Debug, Clone)]
pub struct ReplayPage {
    /// What was replayed, oldest first.
    pub replayed: Vec<Replayed>,
    /// Where the next piece begins; `None` after the last.
    pub next: Option<Place>,
}

impl Replayer {
    /// Replays one rejected event.
    ///
    /// Fails with [`Error::NotFound`] when the project has none of this number, and as
    /// [`Ingest::submit`] does; then it can be tried again.
    pub async fn one(&self, id: i64) -> Result<Replayed, Error> {
        let project = self.project;
        let found = self
            .store
            .run(move |connection| rejected::find(connection, project, id))
            .await?
            .ok_or(NOT_FOUND)?;
        let mut replayed = self.replay(vec![found]).await?;
        let missing = || Error::Internal("a replay has no outcome".to_owned());
        replayed.pop().ok_or_else(missing)
    }

    /// Replays the next of the rejected events that the filter holds and of which no replay is
    /// stored, oldest first and in one submission: at most `limit`, and about as many bytes as one
    /// body may have.
    ///
    /// Fails as [`Ingest::submit`] does; then it can be tried again from the same place.
    pub async fn next(
        &self,
        filter: RejectedFilter,
        after: Option<Place>,
        limit: i64,
    ) -> Result<ReplayPage, Error> {
        let project = self.project;
        let limit = limit.clamp(1, REPLAYED_MAX);
        let bytes_max = i64::try_from(self.limits.body_bytes_max).unwrap_or(i64::MAX);
        let (rows, next) = self
            .store
            .run(move |connection| {
                let rows =
                    rejected::waiting(connection, project, &filter, after, limit, bytes_max)?;
                let last = rows.last().map(|row| (row.head.received_at, row.head.id));
                let more = match last {
                    Some(last) => rejected::any_waiting(connection, project, &filter, last)?,
                    None => false,
                };
                Ok((rows, last.filter(|_| more)))
            })
            .await?;
        let replayed = self.replay(rows).await?;
        Ok(ReplayPage { replayed, next })
    }

    async fn replay(&self, rows: Vec<StoredRejection>) -> Result<Vec<Replayed>, Error> {
        let now = self.clock.now();
        let mut outcomes: Vec<(i64, Option<ReplayOutcome>)> = Vec::with_capacity(rows.len());
        let mut items = Vec::new();
        for row in rows {
            let known = match prepared(&row, self.project, now, &self.limits) {
                Ok(item) => {
                    items.push(item);
                    None
                }
                Err(outcome) => Some(outcome),
            };
            outcomes.push((row.head.id, known));
        }
        let received = outcomes.iter().filter(|(_, known)| known.is_none()).count();
        let request = Submission {
            project: self.project,
            items,
            received,
            wants: Wanted::default(),
        };
        let counted = self.ingest.metrics().received(self.project, received);
        let submitted = self.ingest.submit(request).await;
        counted.answered(&submitted);
        let mut submitted = submitted?.into_iter();
        let mut replayed = Vec::with_capacity(outcomes.len());
        for (id, known) in outcomes {
            let outcome = match known {
                Some(outcome) => outcome,
                None => settled(submitted.next())?,
            };
            replayed.push(Replayed { id, outcome });
        }
        self.note(&replayed, now).await?;
        Ok(replayed)
    }

    /// Marks what is stored. Should this fail, the events are stored all the same, and the next
    /// replay finds them as duplicates.
    async fn note(&self, replayed: &[Replayed], at: DateTime<Utc>) -> Result<(), Error> {
        let stored: Vec<(i64, EventId)> = replayed
            .iter()
            .filter_map(|replayed| match replayed.outcome {
                ReplayOutcome::Stored(event) | ReplayOutcome::Duplicate(event) => {
                    Some((replayed.id, event))
                }
                ReplayOutcome::Refused { .. } => None,
            })
            .collect();
        if stored.is_empty() {
            return Ok(());
        }
        let this = self.clone();
        self.store
            .transact(move |connection| {
                for (id, event) in stored {
                    this.note_one(connection, id, event, at)?;
                }
                Ok(())
            })
            .await
    }

    fn note_one(
        &self,
        connection: &mut PgConnection,
        id: i64,
        event: EventId,
        at: DateTime<Utc>,
    ) -> Result<(), Error> {
        if rejected::mark_replayed(connection, self.project, id, at, event)? {
            let change = Change {
                project: self.project,
                at,
                actor: &self.actor,
                action: "replay",
                object_kind: "rejected_event",
                object_id: &id.to_string(),
                request_id: self.request_id.as_deref(),
            };
            audit::record(connection, &change)?;
        }
        Ok(())
    }
}

/// The item to submit, or what is known without submitting it.
fn prepared(
    row: &StoredRejection,
    project: ProjectId,
    now: DateTime<Utc>,
    limits: &DecodeLimits,
) -> Result<Item, ReplayOutcome> {
    let (head, content) = (&row.head, &row.content);
    // Its message id may be forgotten by now, so it must not be submitted again.
    if let Some(event) = head.replayed_as {
        return Err(ReplayOutcome::Duplicate(EventId(event)));
    }
    if head.is_cut {
        return Err(refused(
            Code::EventTooLarge,
            "its payload was cut, so it cannot be replayed",
        ));
    }
    let kept = Kept {
        // Earlier versions did not keep the route; an element of a batch says itself what it is.
        route: head
            .route
            .as_deref()
            .and_then(Route::parse)
            .unwrap_or(Route::Batch),
        code: &head.code,
        payload: &content.payload,
        context: content.context.as_deref(),
        received_at: head.received_at,
        timestamp: head.timestamp,
    };
    match decode::replay(&kept, limits) {
        Ok(Item::Event(mut event)) => {
            event.received_at = now;
            event.replay_of = Some(head.id);
            if event.message_id.is_none() {
                event.message_id = made_message_id(row, project);
            }
            Ok(Item::Event(event))
        }
        Ok(Item::Rejected(rejection)) => Err(refusal(rejection)),
        Err(error) => Err(refused(error.code(), &error.to_string())),
    }
}

fn settled(outcome: Option<Outcome>) -> Result<ReplayOutcome, Error> {
    Ok(match outcome {
        Some(Outcome::Stored(stored)) if stored.duplicate => ReplayOutcome::Duplicate(stored.id),
        Some(Outcome::Stored(stored)) => ReplayOutcome::Stored(stored.id),
        Some(Outcome::Rejected(rejection)) => refusal(rejection),
        None => {
            return Err(Error::Internal("a replay has no outcome".to_owned()));
        }
    })
}

fn refused(code: Code, message: &str) -> ReplayOutcome {
    ReplayOutcome::Refused {
        code,
        message: message.to_owned(),
        fields: Vec::new(),
    }
}

fn refusal(rejection: Rejection) -> ReplayOutcome {
    ReplayOutcome::Refused {
        code: rejection.code,
        message: rejection.message,
        fields: rejection.fields,
    }
}

/// The id of a call that came without one: the same at every replay of the row, and not to be
/// guessed by a client that would take it first.
fn made_message_id(row: &StoredRejection, project: ProjectId) -> Option<MessageId> {
    let mut digest = Sha256::new();
    digest.update(project.0.to_be_bytes());
    digest.update(row.head.id.to_be_bytes());
    digest.update(row.head.received_at.timestamp_micros().to_be_bytes());
    digest.update(row.content.payload.as_bytes());
    let digest: [u8; 32] = digest.finalize().into();
    let (half, _) = digest.split_first_chunk::<16>()?;
    MessageId::parse(&format!("replay-{}", Uuid::from_bytes(*half).simple())).ok()
}
