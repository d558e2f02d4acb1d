//! The ledger's sums, checked in SQL past the server.

use diesel::PgConnection;

use super::TestApp;
use super::sql;

/// Every project and day on which the ledger's sum is not exact or differs from the tables, one
/// line each. Events that an import brought are not ingest's.
pub fn ledger_faults(connection: &mut PgConnection) -> Vec<String> {
    sql::texts(
        connection,
        "WITH ledger AS (
             SELECT project_id, day, sum(received) AS received, sum(stored) AS stored,
                    sum(duplicate) AS duplicate, sum(rejected) AS rejected
             FROM ingest_ledger GROUP BY project_id, day),
         event AS (
             SELECT project_id, received_on AS day, count(*) AS events FROM events e
             WHERE NOT EXISTS (SELECT FROM import_rows r
                               WHERE r.kind = 'event' AND r.key = e.id::text)
             GROUP BY project_id, received_on),
         refused AS (
             SELECT project_id, received_on AS day, count(*) AS refusals
             FROM rejected_events GROUP BY project_id, received_on),
         compared AS (
             SELECT project_id, day, coalesce(received, 0) AS received,
                    coalesce(stored, 0) AS stored, coalesce(duplicate, 0) AS duplicate,
                    coalesce(rejected, 0) AS rejected, coalesce(events, 0) AS events,
                    coalesce(refusals, 0) AS refusals
             FROM ledger FULL JOIN event USING (project_id, day)
                         FULL JOIN refused USING (project_id, day))
         SELECT format('project %s, %s: received %s = stored %s + duplicate %s + rejected %s; '
                       '%s event(s), %s rejected event(s)', project_id, day, received, stored,
                       duplicate, rejected, events, refusals) AS value
         FROM compared
         WHERE received <> stored + duplicate + rejected OR stored <> events
            OR rejected <> refusals
         ORDER BY project_id, day",
    )
}

/// Panics unless received = stored + duplicate + rejected, stored = events and rejected = rejected
/// events, for each project and day. Nothing may be in flight.
pub fn assert_ledger(app: &TestApp) {
    let faults = ledger_faults(&mut app.sql());
    assert!(
        faults.is_empty(),
        "the ledger differs:\n{}",
        faults.join("\n")
    );
}
