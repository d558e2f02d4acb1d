//! Whether a project has ever seen an event or a trait of some name, for warnings when something is
//! saved.
//!
//! Nothing is kept for it. An event is found by one look into the index of each day's partition. A
//! trait has no index: people are looked through until one has it, and a project with so many
//! people that this takes too long gets no answer.

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{Array, BigInt, Text};

use super::schema::projects;
use crate::model::ProjectId;

/// How long each of the questions may take.
const TIMEOUT_MS: u32 = 40;

#[derive(QueryableByName)]
struct Named {
    #[diesel(sql_type = Text)]
    name: String,
}

/// Which of these names no stored event has; `None` when that cannot be told in time.
pub fn unseen_events(
    connection: &mut PgConnection,
    project: ProjectId,
    names: &[&str],
) -> QueryResult<Option<Vec<String>>> {
    unseen(
        connection,
        "SELECT name FROM unnest($2) AS wanted(name) WHERE NOT coalesce((SELECT true FROM events \
         WHERE events.project_id = $1 AND events.name = wanted.name LIMIT 1), false)",
        project,
        names,
    )
}

/// Which of these traits nobody has; `None` when that cannot be told in time.
pub fn unseen_traits(
    connection: &mut PgConnection,
    project: ProjectId,
    names: &[&str],
) -> QueryResult<Option<Vec<String>>> {
    unseen(
        connection,
        "SELECT name FROM unnest($2) AS wanted(name) WHERE NOT coalesce((SELECT true FROM persons \
         WHERE persons.project_id = $1 AND jsonb_exists(persons.traits, wanted.name) LIMIT 1), \
         false)",
        project,
        names,
    )
}

/// For how many days the project's events are kept.
pub fn retention_days(connection: &mut PgConnection, project: ProjectId) -> QueryResult<i32> {
    projects::table
        .find(project.0)
        .select(projects::retention_days)
        .first(connection)
}

fn unseen(
    connection: &mut PgConnection,
    query: &str,
    project: ProjectId,
    names: &[&str],
) -> QueryResult<Option<Vec<String>>> {
    if names.is_empty() {
        return Ok(Some(Vec::new()));
    }
    let found = connection.transaction(|connection| {
        connection.batch_execute(&format!("SET LOCAL statement_timeout = {TIMEOUT_MS}"))?;
        sql_query(query)
            .bind::<BigInt, _>(project.0)
            .bind::<Array<Text>, _>(names)
            .load::<Named>(connection)
    });
    match found {
        Ok(rows) => Ok(Some(rows.into_iter().map(|row| row.name).collect())),
        Err(diesel::result::Error::DatabaseError(_, info))
            if info.message().contains("statement timeout") =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
