//! What is read of people and projects with a great many events: all that is asked for, or so much of
//! it as can be read in time, and then the answer says so.

use beckon::model::{PersonId, ProjectId};
use beckon::store::history;
use beckon::store::people;
use diesel::PgConnection;

use crate::support::postgres::{TestDatabase, database};
use crate::support::sql;

const PROJECT: ProjectId = ProjectId(1);

fn fresh() -> (TestDatabase, PgConnection) {
    let database = database();
    let connection = beckon::store::connect(&database.url).unwrap();
    (database, connection)
}

#[test]
fn everybody_who_became_one_person_is_followed() {
    let (_database, mut connection) = fresh();
    sql::run(
        &mut connection,
        "INSERT INTO persons (id, project_id, home, bucketing_kind, bucketing_value, merged_into, \
         created_at, last_seen_at) \
         SELECT n, 1, n, 1, n::text, nullif(1, n), now(), now() FROM generate_series(1, 3000) n",
    );
    let family = people::family(&mut connection, PROJECT, PersonId(1)).unwrap();
    assert_eq!(family.len(), 3_000);
    let past = history::people(&mut connection, PROJECT, &[1]).unwrap();
    assert_eq!(past[0].family.len(), 3_000);
}
