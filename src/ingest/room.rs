//! How many identities a person may have.
//!
//! Whoever becomes somebody else takes all identities along, each a row to write, and a few events
//! would do that again and again to a person of any size. Nobody becomes another without bringing an
//! identity, so the bound holds for how many people were merged into one as well.

use diesel::{PgConnection, QueryResult, RunQueryDsl};

use super::apply::refuse;
use super::batch::{Unit, Verdict, Work};
use super::failure::FillError;
use super::people_of_batch::PeopleOfBatch;
use super::shard::Shard;
use super::statements::CountIdentities;
use crate::error::Code;
use crate::model::{Event, EventId, PersonId};
use crate::store::people::FAMILY_MAX;

/// The most identities of one person, and so the most people who were merged into one. To move that
/// many takes some 50 to 100 ms, in which other batches of the shard wait.
pub const IDENTITIES_MAX: usize = FAMILY_MAX;

impl Shard {
    /// Counts the identities of the people that the batch links, whose rows are locked. Nobody but
    /// the batch can give them others until it ends.
    pub(super) fn count_identities(
        &self,
        connection: &mut PgConnection,
        people: &mut PeopleOfBatch<'_>,
        linked: &[PersonId],
    ) -> QueryResult<()> {
        if linked.is_empty() {
            return Ok(());
        }
        let ids: Vec<i64> = linked.iter().map(|person| person.0).collect();
        let max = i64::try_from(self.options.identities_max).unwrap_or(i64::MAX);
        let counts: Vec<(i64, i64)> = CountIdentities {
            people: &ids,
            // Somebody may have more already.
            most: max.saturating_add(1),
        }
        .load(connection)?;
        for (id, count) in counts {
            people.set_identities(PersonId(id), usize::try_from(count).unwrap_or(usize::MAX));
        }
        Ok(())
    }

    /// Whether the identities of these people and so many more can be one person's.
    pub(super) fn has_room(
        &self,
        people: &PeopleOfBatch<'_>,
        of: &[PersonId],
        more: usize,
    ) -> Result<bool, FillError> {
        let mut count = more;
        for person in of {
            // A duplicate that takes the place of a refused event may link somebody after all.
            let held = people.identities(*person).ok_or(FillError::Race)?;
            count = count.saturating_add(held);
        }
        Ok(count <= self.options.identities_max)
    }

    pub(super) fn refuse_identities(
        &self,
        work: &mut Work<'_>,
        unit: &Unit,
        event: &Event,
        id: EventId,
    ) -> (Verdict, Option<PersonId>) {
        let max = self.options.identities_max;
        let message = format!("the user would have more than {max} identities");
        refuse(work, unit, event, id, Code::TooManyIdentities, message)
    }
}
