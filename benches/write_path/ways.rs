//! The ways of writing that are compared: what a transaction says, step by step.

use diesel::connection::SimpleConnection;
use diesel::pg::CopyFormat;
use diesel::{ExecuteCopyFromDsl, PgConnection, QueryResult, RunQueryDsl, copy_from};

use crate::copy;
use crate::rows::{Rows, Statement};

/// One thing said to the database, which is one round trip.
#[derive(Debug, Clone, Copy)]
pub enum Step {
    /// SQL without parameters.
    Plain(&'static str),
    /// A prepared statement.
    Prepared(&'static str),
    /// COPY into the events.
    Copy,
    /// COPY into a staging table.
    Stage,
}

/// A way of writing a batch.
#[derive(Debug)]
pub struct Way {
    /// What it is called in the tables.
    pub name: &'static str,
    /// What makes it possible in a session.
    pub before: &'static str,
    /// One batch.
    pub steps: &'static [Step],
}

impl Way {
    /// Writes a batch and commits it.
    pub fn write(&self, connection: &mut PgConnection, rows: &Rows) -> QueryResult<()> {
        for step in self.steps {
            match step {
                Step::Plain(sql) => connection.batch_execute(sql)?,
                Step::Prepared(text) => {
                    Statement { text, rows }.execute(connection)?;
                }
                Step::Copy => {
                    copy::into_events(connection, &rows.events())?;
                }
                Step::Stage => {
                    copy_into_staging(connection, rows)?;
                }
            }
        }
        Ok(())
    }
}

diesel::table! {
    bench_staging (id) {
        received_on -> Date,
        id -> Uuid,
        project_id -> Int8,
        person_id -> Int8,
        kind -> Int2,
        name -> Text,
        user_id -> Nullable<Text>,
        message_id -> Nullable<Text>,
        properties -> Nullable<Json>,
        timestamp -> Timestamptz,
        received_at -> Timestamptz,
        digest -> Binary,
    }
}

fn copy_into_staging(connection: &mut PgConnection, rows: &Rows) -> QueryResult<usize> {
    copy_from(bench_staging::table)
        .from_raw_data(bench_staging::all_columns, |out| {
            copy::write(&rows.events(), rows.keys(), out).map_err(copy::failed)
        })
        .with_format(CopyFormat::Binary)
        .execute(connection)
}

const fn way(name: &'static str, steps: &'static [Step]) -> Way {
    Way {
        name,
        before: "",
        steps,
    }
}

/// The start of every `INSERT` of events.
macro_rules! insert_events {
    () => {
        "INSERT INTO events (received_on, id, project_id, person_id, kind, name, user_id, \
         message_id, properties, \"timestamp\", received_at) "
    };
}

/// Seven arrays side by side, as rows.
macro_rules! unnested {
    () => {
        "unnest(@ids, @people, @names, @user_ids, @message_ids, @properties, @at) \
         AS t (id, person_id, name, user_id, message_id, properties, at)"
    };
}

/// The insert from rows `t`, less what follows FROM.
macro_rules! insert_from {
    ($from:expr) => {
        concat!(
            insert_events!(),
            "SELECT current_date, t.id, 1, person_id, 0, name, user_id, message_id, \
             properties::json, at, at FROM ",
            $from
        )
    };
}

const BEGIN: Step = Step::Plain("BEGIN; SELECT pg_advisory_xact_lock_shared(7090182501446844418)");
const COMMIT: Step = Step::Plain("COMMIT");

/// Beckon's claim with all that it guards against; returns what was not claimed.
const CLAIM: Step = Step::Prepared(
    "WITH input AS MATERIALIZED (SELECT * FROM unnest(@projects, @keys, @ids) \
     AS t (project_id, digest, event_id)), claimed AS (INSERT INTO message_ids_0 \
     SELECT project_id, digest, event_id FROM input i \
     WHERE (SELECT current_bucket FROM message_buckets) = 0 \
     AND NOT EXISTS (SELECT 1 FROM message_ids_1 m \
     WHERE m.project_id = i.project_id AND m.digest = i.digest) \
     ON CONFLICT DO NOTHING RETURNING project_id, digest) \
     SELECT i.project_id, i.digest FROM input i WHERE NOT EXISTS \
     (SELECT 1 FROM claimed c WHERE c.project_id = i.project_id AND c.digest = i.digest)",
);

/// A claim that only tells which ids it took.
const CLAIM_BARE: Step = Step::Prepared(
    "INSERT INTO message_ids_0 SELECT * FROM unnest(@projects, @keys, @ids) \
     AS t (project_id, digest, event_id) ON CONFLICT DO NOTHING RETURNING event_id",
);

/// All twelve arrays, as Beckon sends them.
const EVENTS_NOW: Step = Step::Prepared(
    "INSERT INTO events (received_on, id, project_id, person_id, kind, name, user_id, \
     anonymous_id, message_id, properties, context, \"timestamp\", received_at) \
     SELECT current_date, id, project_id, person_id, kind, name, user_id, anonymous_id, \
     message_id, properties::json, context::json, at, received_at FROM unnest(@ids, @projects, \
     @people, @kinds, @names, @user_ids, @nothing, @message_ids, @properties, @nothing, @at, @at) \
     AS t (id, project_id, person_id, kind, name, user_id, anonymous_id, message_id, properties, \
     context, at, received_at)",
);

const EVENTS: Step = Step::Prepared(insert_from!(unnested!()));

/// The arrays in lockstep as a select list, which needs no intermediate storage.
const EVENTS_LIST: Step = Step::Prepared(insert_from!(
    "(SELECT unnest(@ids) AS id, unnest(@people) AS person_id, unnest(@names) AS name, \
     unnest(@user_ids) AS user_id, unnest(@message_ids) AS message_id, \
     unnest(@properties) AS properties, unnest(@at) AS at) AS t"
));

const EVENTS_RECORDS: Step = Step::Prepared(insert_from!("unnest(@records) AS t"));

/// One statement with the guards of Beckon's claim; the number of rows tells of duplicates.
const ONE_GUARDED: Step = Step::Prepared(concat!(
    "WITH lock AS MATERIALIZED (SELECT pg_advisory_xact_lock_shared(7090182501446844418)), \
     claimed AS (INSERT INTO message_ids_0 SELECT project_id, digest, event_id \
     FROM lock, unnest(@projects, @keys, @ids) AS i (project_id, digest, event_id) \
     WHERE (SELECT current_bucket FROM message_buckets) = 0 \
     AND NOT EXISTS (SELECT 1 FROM message_ids_1 m \
     WHERE m.project_id = i.project_id AND m.digest = i.digest) \
     ON CONFLICT DO NOTHING RETURNING event_id) ",
    insert_from!(concat!(
        unnested!(),
        " JOIN claimed ON claimed.event_id = t.id"
    )),
));

const ONE: Step = Step::Prepared(concat!(
    "WITH claimed AS (INSERT INTO message_ids_0 SELECT 1, digest, event_id \
     FROM unnest(@keys, @ids) AS i (digest, event_id) \
     ON CONFLICT DO NOTHING RETURNING event_id) ",
    insert_from!(concat!(
        unnested!(),
        " JOIN claimed ON claimed.event_id = t.id"
    )),
));

/// The rows go to the server once and are read twice.
const ONE_INPUT: Step = Step::Prepared(concat!(
    "WITH input AS MATERIALIZED (SELECT * FROM unnest(@keys, @ids, @people, @names, @user_ids, \
     @message_ids, @properties, @at) \
     AS t (digest, id, person_id, name, user_id, message_id, properties, at)), \
     claimed AS (INSERT INTO message_ids_0 SELECT 1, digest, id FROM input \
     ON CONFLICT DO NOTHING RETURNING event_id) ",
    insert_from!("input t JOIN claimed ON claimed.event_id = t.id"),
));

const ONE_LIST: Step = Step::Prepared(concat!(
    "WITH claimed AS (INSERT INTO message_ids_0 \
     SELECT 1, unnest(@keys), unnest(@ids) ON CONFLICT DO NOTHING RETURNING event_id) ",
    insert_from!(
        "(SELECT unnest(@ids) AS id, unnest(@people) AS person_id, unnest(@names) AS name, \
         unnest(@user_ids) AS user_id, unnest(@message_ids) AS message_id, \
         unnest(@properties) AS properties, unnest(@at) AS at) AS t \
         JOIN claimed ON claimed.event_id = t.id"
    ),
));

/// What the baselines of the ingest bench say: it trusts that ids are new.
const ONE_TRUSTING: Step = Step::Prepared(concat!(
    "WITH claimed AS (INSERT INTO message_ids_0 SELECT 1, digest, event_id \
     FROM unnest(@keys, @ids) AS i (digest, event_id) ON CONFLICT DO NOTHING) ",
    insert_from!(unnested!()),
));

const ONE_VALUES: Step = Step::Prepared(concat!(
    "WITH claimed AS (INSERT INTO message_ids_0 SELECT 1, digest, event_id \
     FROM unnest(@keys, @ids) AS i (digest, event_id) ON CONFLICT DO NOTHING) ",
    insert_events!(),
    "VALUES @values"
));

const STAGING: &str = "CREATE TEMPORARY TABLE IF NOT EXISTS bench_staging (received_on date, \
    id uuid, project_id bigint, person_id bigint, kind smallint, name text, user_id text, \
    message_id text, properties json, \"timestamp\" timestamptz, received_at timestamptz, \
    digest bytea) ON COMMIT DELETE ROWS; DO $$ BEGIN IF EXISTS (SELECT FROM pg_attribute \
    WHERE attrelid = 'message_ids_0'::regclass AND attname = 'digest' \
    AND atttypid = 'uuid'::regtype) THEN ALTER TABLE bench_staging \
    ALTER digest TYPE uuid USING NULL; END IF; END $$";

const FROM_STAGING: Step = Step::Plain(concat!(
    "WITH claimed AS (INSERT INTO message_ids_0 SELECT 1, digest, id FROM bench_staging \
     ON CONFLICT DO NOTHING RETURNING event_id) ",
    insert_events!(),
    "SELECT received_on, id, project_id, person_id, kind, name, user_id, message_id, properties, \
     \"timestamp\", received_at FROM bench_staging JOIN claimed ON claimed.event_id = id; COMMIT"
));

/// The ways, the one that Beckon went first.
pub const WAYS: [Way; 13] = [
    way("claim, events", &[BEGIN, CLAIM, EVENTS_NOW, COMMIT]),
    Way {
        before: "SET plan_cache_mode = force_generic_plan",
        ..way(
            "claim, events: generic plans",
            &[BEGIN, CLAIM, EVENTS_NOW, COMMIT],
        )
    },
    way(
        "claim, events: 7 arrays, not 12",
        &[BEGIN, CLAIM, EVENTS, COMMIT],
    ),
    way("bare claim, events", &[BEGIN, CLAIM_BARE, EVENTS, COMMIT]),
    way(
        "bare claim, events: select list",
        &[BEGIN, CLAIM_BARE, EVENTS_LIST, COMMIT],
    ),
    way(
        "bare claim, events: records",
        &[BEGIN, CLAIM_BARE, EVENTS_RECORDS, COMMIT],
    ),
    way("bare claim, COPY", &[BEGIN, CLAIM_BARE, Step::Copy, COMMIT]),
    Way {
        before: STAGING,
        ..way(
            "COPY to a temporary table",
            &[Step::Plain("BEGIN"), Step::Stage, FROM_STAGING],
        )
    },
    way("one statement, guarded", &[ONE_GUARDED]),
    way("one statement", &[ONE]),
    way("one statement: input once", &[ONE_INPUT]),
    way("one statement: select list", &[ONE_LIST]),
    way("one statement, trusting", &[ONE_TRUSTING]),
];

/// Rows as values, whose statement is another one for each number of rows.
pub const VALUES: Way = way("one statement, trusting: VALUES", &[ONE_VALUES]);

/// A table that message ids are kept in, and what claims them.
#[derive(Debug)]
pub struct Key {
    /// What it is called in the table of results.
    pub name: &'static str,
    columns: &'static str,
    /// What fills the columns from a digest `d`.
    filled_by: &'static str,
    /// The claim and the events.
    pub way: Way,
}

impl Key {
    /// Makes the table anew.
    pub fn table(&self) -> String {
        let columns = self.columns;
        format!("DROP TABLE IF EXISTS bench_ids; CREATE TABLE bench_ids ({columns})")
    }

    /// Fills the table with digests that the load does not have.
    pub fn fill(&self, rows: u64) -> String {
        let values = self.filled_by;
        format!(
            "INSERT INTO bench_ids SELECT {values} FROM generate_series(1, {rows}) AS number, \
             sha256(int8send(number)) AS d ORDER BY d; ANALYZE bench_ids"
        )
    }
}

macro_rules! claimed_as {
    ($select:expr) => {
        Step::Prepared(concat!(
            "WITH claimed AS (INSERT INTO bench_ids SELECT ",
            $select,
            " ON CONFLICT DO NOTHING RETURNING event_id) ",
            insert_from!(concat!(
                unnested!(),
                " JOIN claimed ON claimed.event_id = t.id"
            )),
        ))
    };
}

/// The forms that the key of a message id could have.
pub const KEYS: [Key; 5] = [
    Key {
        name: "project, 32 bytes",
        columns: "project_id bigint, digest bytea, event_id uuid, PRIMARY KEY (project_id, digest)",
        filled_by: "1, d, gen_random_uuid()",
        way: way(
            "",
            &[claimed_as!(
                "1, d, e FROM unnest(@digests, @ids) AS i (d, e)"
            )],
        ),
    },
    Key {
        name: "project, 16 bytes",
        columns: "project_id bigint, digest bytea, event_id uuid, PRIMARY KEY (project_id, digest)",
        filled_by: "1, substr(d, 1, 16), gen_random_uuid()",
        way: way(
            "",
            &[claimed_as!(
                "1, d, e FROM unnest(@halves, @ids) AS i (d, e)"
            )],
        ),
    },
    Key {
        name: "project, 16 bytes as uuid",
        columns: "project_id bigint, digest uuid, event_id uuid, PRIMARY KEY (project_id, digest)",
        filled_by: "1, encode(substr(d, 1, 16), 'hex')::uuid, gen_random_uuid()",
        way: way(
            "",
            &[claimed_as!("1, d, e FROM unnest(@uuids, @ids) AS i (d, e)")],
        ),
    },
    Key {
        name: "uuid of project and id together",
        columns: "digest uuid PRIMARY KEY, event_id uuid",
        filled_by: "encode(substr(d, 1, 16), 'hex')::uuid, gen_random_uuid()",
        way: way(
            "",
            &[claimed_as!("d, e FROM unnest(@uuids, @ids) AS i (d, e)")],
        ),
    },
    Key {
        name: "none",
        columns: "event_id uuid",
        filled_by: "gen_random_uuid()",
        way: way("", &[EVENTS]),
    },
];

/// What is taken away from the events, and what is put in its place.
pub const INDEXES: [(&str, &str); 8] = [
    ("all four", ""),
    (
        "without the primary key",
        "ALTER TABLE events DROP CONSTRAINT events_pkey",
    ),
    (
        "without (project, received_at, id)",
        "DROP INDEX events_received_idx",
    ),
    (
        "without (project, person, received_at)",
        "DROP INDEX events_person_idx",
    ),
    (
        "without (project, name, received_at)",
        "DROP INDEX events_name_idx",
    ),
    (
        "BRIN for (received_at)",
        "DROP INDEX events_received_idx; CREATE INDEX ON events USING brin (received_at)",
    ),
    (
        "primary key only",
        "DROP INDEX events_received_idx, events_person_idx, events_name_idx",
    ),
    (
        "none",
        "DROP INDEX events_received_idx, events_person_idx, events_name_idx; \
         ALTER TABLE events DROP CONSTRAINT events_pkey",
    ),
];

/// How the rows are written while indexes are compared.
pub const FOR_INDEXES: Way = way("one statement", &[ONE]);
