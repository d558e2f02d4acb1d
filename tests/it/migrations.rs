//! The schema: up and down again, one node at a time, and never by an older binary.

use std::time::Duration;

use beckon::store::migrate::{MIGRATIONS, migrate, pending};
use diesel::PgConnection;
use diesel_migrations::MigrationHarness;

use crate::support::app::{ADMIN_KEY, Launch, Server, run_to_end};
use crate::support::postgres::{database, empty_database};
use crate::support::{Client, eventually, sql};

/// How long one command may take.
const COMMAND_BOUND: Duration = Duration::from_secs(60);

/// Everything the catalog knows of the schema, as sorted lines.
fn schema(connection: &mut PgConnection) -> Vec<String> {
    const PARTS: [&str; 8] = [
        "SELECT format('column %s.%s %s %s %s %s', table_name, column_name, ordinal_position,
                data_type, is_nullable, concat_ws(' ', column_default, identity_generation,
                generation_expression)) AS value
         FROM information_schema.columns WHERE table_schema = 'public'",
        "SELECT format('constraint %s %s %s', conrelid::regclass, conname,
                pg_get_constraintdef(oid)) AS value
         FROM pg_constraint WHERE connamespace = 'public'::regnamespace",
        "SELECT format('index %s', indexdef) AS value FROM pg_indexes WHERE schemaname = 'public'",
        "SELECT format('sequence %s %s %s %s', sequencename, data_type, increment_by, cache_size)
                AS value
         FROM pg_sequences WHERE schemaname = 'public'",
        "SELECT format('table %s %s %s', relname, relkind, concat_ws(' ', pg_get_partkeydef(oid),
                pg_get_expr(relpartbound, oid), array_to_string(reloptions, ','))) AS value
         FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v', 'm')",
        "SELECT format('function %s', pg_get_functiondef(oid)) AS value
         FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND prokind = 'f'",
        "SELECT format('trigger %s', pg_get_triggerdef(oid)) AS value
         FROM pg_trigger WHERE NOT tgisinternal",
        "SELECT format('type %s %s', typname, typtype) AS value
         FROM pg_type WHERE typnamespace = 'public'::regnamespace AND typtype IN ('e', 'd')",
    ];
    let mut lines: Vec<String> = PARTS
        .iter()
        .flat_map(|part| sql::texts(connection, part))
        .filter(|line| !line.contains("__diesel_schema_migrations"))
        .collect();
    lines.sort();
    lines
}

fn applied(connection: &mut PgConnection) -> usize {
    connection.applied_migrations().unwrap().len()
}

#[test]
fn up_down_up_leaves_the_same_schema() {
    let database = empty_database();
    let mut connection = database.connect();
    let nothing = schema(&mut connection);
    assert!(nothing.is_empty(), "{nothing:?}");
    let run = migrate(&mut connection).unwrap();
    assert!(!run.is_empty());
    let up = schema(&mut connection);
    assert!(up.iter().any(|line| line.starts_with("index")), "{up:?}");

    connection.revert_all_migrations(MIGRATIONS).unwrap();
    assert_eq!(schema(&mut connection), nothing, "down leaves something");
    migrate(&mut connection).unwrap();
    assert_eq!(schema(&mut connection), up);

    // Each step by itself too, from the last to the first and back.
    let mut steps = vec![up];
    for _ in 0..run.len() {
        connection.revert_last_migration(MIGRATIONS).unwrap();
        steps.push(schema(&mut connection));
    }
    while let Some(step) = steps.pop() {
        assert_eq!(schema(&mut connection), step);
        if !steps.is_empty() {
            connection.run_next_migration(MIGRATIONS).unwrap();
        }
    }
}

#[test]
fn the_digest_notices_what_a_schema_can_differ_in() {
    let database = database();
    let mut connection = database.connect();
    migrate(&mut connection).unwrap();
    let before = schema(&mut connection);
    for (change, back) in [
        (
            "ALTER TABLE projects ADD COLUMN extra text",
            "ALTER TABLE projects DROP COLUMN extra",
        ),
        ("CREATE INDEX extra ON projects (name)", "DROP INDEX extra"),
        (
            "ALTER TABLE projects ALTER COLUMN retention_days SET DEFAULT 91",
            "ALTER TABLE projects ALTER COLUMN retention_days SET DEFAULT 90",
        ),
        (
            "ALTER TABLE projects ADD CONSTRAINT extra CHECK (id > 0)",
            "ALTER TABLE projects DROP CONSTRAINT extra",
        ),
        ("CREATE TABLE extra ()", "DROP TABLE extra"),
        ("CREATE SEQUENCE extra", "DROP SEQUENCE extra"),
    ] {
        sql::run(&mut connection, change);
        assert_ne!(schema(&mut connection), before, "{change}");
        sql::run(&mut connection, back);
        assert_eq!(schema(&mut connection), before, "{back}");
    }
}

#[test]
fn migrating_again_does_nothing() {
    let database = empty_database();
    let mut connection = database.connect();
    assert!(!pending(&mut connection).unwrap().is_empty());
    let first = migrate(&mut connection).unwrap();
    assert!(!first.is_empty());
    assert!(migrate(&mut connection).unwrap().is_empty());
    assert!(pending(&mut connection).unwrap().is_empty());
    let projects = sql::texts(&mut connection, "SELECT name AS value FROM projects");
    assert_eq!(projects, ["default"]);
}

#[test]
fn a_newer_schema_is_refused_and_left_alone() {
    let database = database();
    let mut connection = database.connect();
    migrate(&mut connection).unwrap();
    sql::run(
        &mut connection,
        "INSERT INTO __diesel_schema_migrations (version) VALUES ('99991231000001')",
    );
    let before = schema(&mut connection);
    let launch = Launch::new(&database.url);
    for command in ["serve", "migrate"] {
        let (status, said) = run_to_end(launch.command(&[command]), COMMAND_BOUND);
        assert!(!status.success(), "{command}: {said}");
        assert!(said.contains("newer than this binary"), "{command}: {said}");
        assert!(said.contains("99991231000001"), "{command}: {said}");
    }
    assert_eq!(schema(&mut connection), before);
    let keys = sql::number(&mut connection, "SELECT count(*) FROM api_keys");
    assert_eq!(keys, 0, "nothing was written");
}

/// Something that restarts what does not answer must not end a server that migrates.
#[test]
fn a_server_answers_and_stops_while_it_migrates() {
    let database = database();
    let mut connection = database.connect();
    migrate(&mut connection).unwrap();
    connection.revert_last_migration(MIGRATIONS).unwrap();
    // Another node is migrating.
    let mut other = database.connect();
    sql::run(
        &mut other,
        &format!("SELECT pg_advisory_lock({})", 0x6265_636b_6f6e_0001_i64),
    );
    let mut stopped = Server::start(&Launch::new(&database.url));
    let server = Server::start(&Launch::new(&database.url));
    for server in [&stopped, &server] {
        let client = Client::new(server.base()).key(ADMIN_KEY);
        assert_eq!(client.get("/livez").status, 200);
        assert_eq!(client.get("/readyz").status, 503);
        // The schema is not the one it knows.
        assert_eq!(client.get("/v1/admin/campaigns").status, 503);
    }
    stopped.terminate();
    let status = stopped.wait(Duration::from_secs(20)).unwrap();
    assert!(status.success(), "{}", stopped.log());
    drop(other);
    server.wait_until_ready();
    assert!(pending(&mut connection).unwrap().is_empty());
    let client = Client::new(server.base()).key(ADMIN_KEY);
    assert_eq!(client.get("/v1/admin/campaigns").status, 200);
}

#[test]
fn nodes_that_migrate_at_once_do_not_disturb_each_other() {
    const NODES: usize = 6;
    let reference = {
        let database = empty_database();
        let mut connection = database.connect();
        migrate(&mut connection).unwrap();
        (schema(&mut connection), applied(&mut connection))
    };
    let database = empty_database();
    let launch = Launch::new(&database.url);
    std::thread::scope(|scope| {
        for _ in 0..NODES {
            let launch = &launch;
            scope.spawn(move || {
                let (status, said) = run_to_end(launch.command(&["migrate"]), COMMAND_BOUND);
                assert!(status.success(), "{said}");
            });
        }
    });
    let mut connection = database.connect();
    assert_eq!(applied(&mut connection), reference.1);
    // The command may have made partitions besides; nothing of the schema is missing.
    let made = schema(&mut connection);
    for line in &reference.0 {
        assert!(made.contains(line), "{line} is missing");
    }
}

/// A migration that is killed when half of it is done leaves nothing of it, and the next run does it.
#[test]
fn a_migration_that_is_killed_is_done_by_the_next_run() {
    let reference = empty_database();
    let mut connection = reference.connect();
    let count = migrate(&mut connection).unwrap().len();
    let whole = schema(&mut connection);
    // So many migrations have run, and the next one waits for this when it has done something.
    for (run, holding) in [
        (0, "CREATE TABLE audit_log ()"),
        (3, "LOCK TABLE rejected_events"),
        (4, "LOCK TABLE message_ids_1"),
    ] {
        let database = empty_database();
        let mut connection = database.connect();
        for _ in 0..run {
            connection.run_next_migration(MIGRATIONS).unwrap();
        }
        let before = schema(&mut connection);
        let mut holder = database.connect();
        sql::run(&mut holder, &format!("BEGIN; {holding}"));
        let launch = Launch::new(&database.url);
        let mut killed = launch.command(&["migrate"]).spawn().unwrap();
        // Waits for the holder, having written to the catalog.
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                     AND wait_event_type = 'Lock' AND backend_xid IS NOT NULL";
        eventually("the migration to wait", COMMAND_BOUND, || {
            (sql::number(&mut connection, waits) == 1).then_some(())
        });
        killed.kill().unwrap();
        killed.wait().unwrap();
        sql::run(&mut holder, "ROLLBACK");
        let others = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database = \
                      (SELECT oid FROM pg_database WHERE datname = current_database())";
        eventually("its session to end", COMMAND_BOUND, || {
            (sql::number(&mut connection, others) == 0).then_some(())
        });
        if run > 0 {
            assert_eq!(applied(&mut connection), run, "{holding}");
        }
        assert_eq!(schema(&mut connection), before, "{holding}");

        // A server would do the same.
        let (status, said) = run_to_end(launch.command(&["migrate"]), COMMAND_BOUND);
        assert!(status.success(), "{holding}: {said}");
        assert_eq!(applied(&mut connection), count, "{holding}");
        let mut made = schema(&mut connection);
        // The command makes partitions besides; nothing else is there that should not be.
        made.retain(|line| !line.contains("events_p2"));
        assert_eq!(made, whole, "{holding}");
    }
}

/// A node of the version before still writes while a new one migrates.
#[test]
fn writers_do_not_queue_behind_a_migration_that_waits_for_a_lock() {
    let database = database();
    let mut connection = database.connect();
    migrate(&mut connection).unwrap();
    // Back to before the first migration that changes a table that is written all the time.
    let altering = "20261121000009";
    while applied_versions(&mut connection)[0].as_str() >= altering {
        connection.revert_last_migration(MIGRATIONS).unwrap();
    }
    // A long transaction has read the table.
    let mut reader = database.connect();
    sql::run(&mut reader, "BEGIN; SELECT count(*) FROM ingest_ledger");
    let url = database.url.clone();
    let migrating = std::thread::spawn(move || {
        let mut connection = beckon::store::connect(&url).unwrap();
        migrate(&mut connection)
    });
    let mut writer = database.connect();
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                 AND wait_event_type = 'Lock' AND query LIKE '%ingest_ledger%'";
    eventually("the migration to wait", Duration::from_secs(30), || {
        (sql::number(&mut connection, waits) == 1).then_some(())
    });
    for _ in 0..3 {
        // Whoever queues behind the migration waits until that gives up.
        let write = "SET lock_timeout = '5s'; DELETE FROM ingest_ledger WHERE received < 0";
        sql::run(&mut writer, write);
    }
    sql::run(&mut reader, "ROLLBACK");
    let versions = migrating.join().unwrap().unwrap();
    assert_eq!(versions[0], altering);
    let timeouts = "SELECT current_setting('lock_timeout') || current_setting('statement_timeout') \
                    AS value";
    let mut session = beckon::store::connect(&database.url).unwrap();
    let before = sql::texts(&mut session, timeouts);
    migrate(&mut session).unwrap();
    assert_eq!(sql::texts(&mut session, timeouts), before);
}

/// The table of identities is read for every event of somebody who is not in memory.
#[test]
fn an_index_of_identities_is_built_while_they_are_read() {
    let database = database();
    let mut connection = database.connect();
    migrate(&mut connection).unwrap();
    while applied_versions(&mut connection)[0].as_str() >= "20261122000012" {
        connection.revert_last_migration(MIGRATIONS).unwrap();
    }
    let build = include_str!("../../migrations/2026-11-22-000012_identities_order/up.sql");
    sql::run(&mut connection, "BEGIN");
    sql::run(&mut connection, build);
    let mut reader = database.connect();
    let read = "SET lock_timeout = '2s'; SELECT count(*) FROM identities WHERE person_id = 1";
    sql::run(&mut reader, read);
    sql::run(&mut connection, "ROLLBACK");
    migrate(&mut connection).unwrap();
    let indexes = "SELECT indexdef AS value FROM pg_indexes WHERE tablename = 'identities' \
                   AND indexdef LIKE '%(person_id%'";
    let indexes = sql::texts(&mut connection, indexes);
    assert_eq!(indexes.len(), 1, "{indexes:?}");
    assert!(indexes[0].contains("person_id, kind, created_at, value"));
}

fn applied_versions(connection: &mut PgConnection) -> Vec<String> {
    let versions = connection.applied_migrations().unwrap();
    versions.iter().map(ToString::to_string).collect()
}

#[test]
fn every_table_can_be_read_as_the_query_builder_sees_it() {
    use beckon::store::schema as tables;
    use diesel::prelude::*;

    let database = database();
    let mut connection = database.connect();
    migrate(&mut connection).unwrap();
    macro_rules! read {
        ($($table:ident),+) => {$({
            let query = tables::$table::table.select(tables::$table::all_columns).limit(0);
            let text = diesel::debug_query::<diesel::pg::Pg, _>(&query).to_string();
            // Without the list of values that the debug form adds.
            let text = text.split(" -- ").next().unwrap().replace("$1", "0");
            sql::run(&mut connection, &text);
        })+};
    }
    read!(
        projects,
        project_revisions,
        project_origins,
        api_keys,
        persons,
        people_seen,
        identities,
        events,
        rejected_events,
        ingest_ledger,
        campaigns,
        campaign_history,
        segments,
        feature_flags,
        audit_log
    );
}
