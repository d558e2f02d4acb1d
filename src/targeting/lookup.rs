//! Finds people: remembered ones, and the others in the database.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use diesel::{PgConnection, QueryResult, RunQueryDsl};

use super::Targeting;
use super::people::Address;
use super::person::PersonState;
use crate::error::Error;
use crate::model::{Identity, PersonId, ProjectId};
use crate::store::person_state::{AddressRow, FindAddresses, LoadPeople, PersonRow};

/// How long a node that is cut off waits for the database before it decides on the last it knew.
const CUT_OFF_WAIT: Duration = Duration::from_millis(250);

impl Targeting {
    /// The state of the person an identity names, from the cache or the database; `None` for
    /// somebody never seen.
    pub async fn person(
        &self,
        project: ProjectId,
        identity: &Identity,
    ) -> Result<Option<Arc<PersonState>>, Error> {
        if let Some(address) = self.0.people.address(project, identity)
            && let Some(state) = self.0.people.state(address.person)
        {
            return Ok(Some(state));
        }
        let (this, wanted) = (self.clone(), identity.clone());
        let loading = self
            .0
            .store
            .run(move |connection| this.load_person(connection, project, &wanted));
        if !self.0.people.others().is_cut_off() {
            return loading.await;
        }
        match tokio::time::timeout(CUT_OFF_WAIT, loading).await {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(_)) | Err(_) => match self.0.people.last_known(project, identity) {
                Some(state) => Ok(Some(state)),
                None => Err(Error::DatabaseUnavailable),
            },
        }
    }

    /// Where identities lead: remembered addresses, and the others from the database in one query.
    /// Identities nobody has seen are left out.
    pub async fn addresses(
        &self,
        project: ProjectId,
        identities: Vec<Identity>,
    ) -> Result<HashMap<Identity, Address>, Error> {
        let mut found = HashMap::with_capacity(identities.len());
        let mut unknown = Vec::new();
        for identity in identities {
            match self.0.people.address(project, &identity) {
                Some(address) => {
                    found.insert(identity, address);
                }
                None => unknown.push(identity),
            }
        }
        if unknown.is_empty() {
            return Ok(found);
        }
        let epoch = self.0.people.epoch();
        let loaded = self
            .0
            .store
            .run(move |connection| load_addresses(connection, project, &unknown))
            .await?;
        for (identity, address) in loaded {
            self.0
                .people
                .remember_address(epoch, project, &identity, address);
            found.insert(identity, address);
        }
        Ok(found)
    }

    fn load_person(
        &self,
        connection: &mut PgConnection,
        project: ProjectId,
        identity: &Identity,
    ) -> QueryResult<Option<Arc<PersonState>>> {
        // A merge between the two reads repoints the identity, so a second look finds the survivor.
        for _ in 0..3 {
            let epoch = self.0.people.epoch();
            let wanted = std::slice::from_ref(identity);
            let Some((_, address)) = load_addresses(connection, project, wanted)?.pop() else {
                return Ok(None);
            };
            let observed = self.0.people.observe(address.person);
            let row: Option<PersonRow> = LoadPeople {
                ids: &[address.person.0],
            }
            .load(connection)?
            .pop();
            match row {
                Some(row) if row.merged_into.is_none() => {
                    let state = Arc::new(PersonState::from(row));
                    self.0
                        .people
                        .remember_address(epoch, project, identity, address);
                    self.0.people.remember_loaded(observed, &state);
                    return Ok(Some(state));
                }
                _ => {}
            }
        }
        Ok(None)
    }
}

/// Looks identities of one project up.
pub(crate) fn load_addresses(
    connection: &mut PgConnection,
    project: ProjectId,
    identities: &[Identity],
) -> QueryResult<Vec<(Identity, Address)>> {
    let projects = vec![project.0; identities.len()];
    let kinds: Vec<i16> = identities
        .iter()
        .map(|identity| identity.kind().as_i16())
        .collect();
    let values: Vec<&str> = identities.iter().map(Identity::value).collect();
    let query = FindAddresses {
        projects: &projects,
        kinds: &kinds,
        values: &values,
    };
    let found: Vec<AddressRow> = query.load(connection)?;
    let by_key: HashMap<(i16, &str), &Identity> = identities
        .iter()
        .map(|identity| ((identity.kind().as_i16(), identity.value()), identity))
        .collect();
    Ok(found
        .iter()
        .filter_map(|row| {
            let identity = by_key.get(&(row.kind, row.value.as_str()))?;
            let address = Address {
                person: PersonId(row.person_id),
                home: row.home,
            };
            Some(((*identity).clone(), address))
        })
        .collect())
}
