//! What a rollback takes out, and what it leaves.

use beckon::model::ProjectId;
use beckon::store::nodes;
use beckon::transfer;
use diesel::{PgConnection, QueryResult};
use serde_json::json;

use super::{fresh, import, roll_back};
use crate::support::{TestApp, eventually, sql};

/// How many nodes are there.
fn servers(connection: &mut PgConnection) -> QueryResult<i64> {
    nodes::others(connection, nodes::NodeId::draw())
}

#[test]
fn a_rollback_leaves_nothing_and_the_file_can_come_again() {
    let (_database, mut connection, project) = fresh();
    let traces = "SELECT (SELECT count(*) FROM campaigns) + (SELECT count(*) FROM segments) \
        + (SELECT count(*) FROM feature_flags) + (SELECT count(*) FROM persons) \
        + (SELECT count(*) FROM identities) + (SELECT count(*) FROM events) \
        + (SELECT count(*) FROM message_ids_0) + (SELECT count(*) FROM import_rows)";
    import(&mut connection, project);
    let report = roll_back(&mut connection, project, false);
    assert_eq!((report.removed(), report.kept.len()), (16, 0));
    assert_eq!(sql::number(&mut connection, traces), 0);
    assert_eq!(roll_back(&mut connection, project, false).removed(), 0);
    assert_eq!(import(&mut connection, project).created(), 16);
}

#[test]
fn a_rollback_keeps_and_lists_what_was_changed_since() {
    let app = TestApp::start();
    let mut connection = app.sql();
    let project = ProjectId(sql::default_project(&mut connection));
    import(&mut connection, project);
    let client = app.client();
    // A server that runs sees the import; what it then does to the rows keeps them.
    let body = json!({"user_id": "ada", "event": "open"});
    eventually(
        "the imported campaign",
        std::time::Duration::from_secs(5),
        || {
            let answer = client.post("/v1/track", &body).expect(200);
            (answer["matched"][0]["id"] == "c-newest").then_some(())
        },
    );
    client
        .post(
            "/v1/identify",
            &json!({"user_id": "linus", "traits": {"plan": "pro"}}),
        )
        .expect(200);
    app.admin()
        .put("/v1/admin/campaigns/c-oldest", &json!({"name": "Changed"}))
        .expect(200);
    sql::run(
        &mut connection,
        "UPDATE persons SET traits = '{\"x\": 1}' WHERE bucketing_value = 'lone'",
    );
    let report = roll_back(&mut connection, project, false);
    let kept: Vec<String> = report
        .kept
        .iter()
        .map(|k| format!("{} {}: {}", k.kind, k.id, k.reason))
        .collect();
    let mut sorted = kept.clone();
    sorted.sort();
    assert_eq!(
        sorted,
        [
            "campaign c-oldest: it was changed since",
            "person ada: later events belong to this person",
            "person linus: later events belong to this person",
            "person lone: the traits were changed since",
        ]
    );
    assert_eq!((report.events, report.campaigns, report.people), (4, 2, 3));
    let forced = roll_back(&mut connection, project, true);
    assert_eq!(
        (forced.campaigns, forced.people, forced.kept.len()),
        (1, 1, 2)
    );
    // Every event that is left has its person.
    let orphans = "SELECT count(*) FROM events e LEFT JOIN persons p ON p.id = e.person_id WHERE p.id IS NULL";
    assert_eq!(sql::number(&mut connection, orphans), 0);
    // Somebody who was taken out is new to the server.
    client
        .post(
            "/v1/track",
            &json!({"user_id": "stranger", "event": "open"}),
        )
        .expect(200);
    assert_eq!(sql::number(&mut connection, orphans), 0);
}

/// A server may have had people in memory that a rollback took out before it failed.
#[test]
fn a_rollback_that_fails_leaves_no_event_without_a_person() {
    let app = TestApp::start();
    let mut connection = app.sql();
    let project = ProjectId(sql::default_project(&mut connection));
    import(&mut connection, project);
    let client = app.client();
    let known = json!({"user_id": "lone", "traits": {}});
    client.post("/v1/identify", &known).expect(200);
    sql::run(
        &mut connection,
        "DELETE FROM events WHERE user_id = 'lone' AND name = 'identify'; \
         CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS \
         $$ BEGIN RAISE EXCEPTION 'not now'; END $$; \
         CREATE TRIGGER no BEFORE DELETE ON campaigns FOR EACH ROW EXECUTE FUNCTION no()",
    );
    let run = sql::number(&mut connection, "SELECT max(id) FROM import_runs");
    let people = "SELECT count(*) FROM identities WHERE value = 'lone'";
    assert_eq!(sql::number(&mut connection, people), 1);
    transfer::rollback(&mut connection, project, run, false).unwrap_err();
    assert_eq!(sql::number(&mut connection, people), 0);
    for _ in 0..20 {
        let body = json!({"user_id": "lone", "event": "open"});
        client.post("/v1/track", &body).expect(200);
    }
    let orphans = "SELECT count(*) FROM events e \
                   WHERE NOT EXISTS (SELECT FROM persons p WHERE p.id = e.person_id)";
    assert_eq!(sql::number(&mut connection, orphans), 0);
    sql::run(&mut connection, "DROP TRIGGER no ON campaigns");
    roll_back(&mut connection, project, false);
    assert_eq!(servers(&mut connection).unwrap(), 1, "the server alone");
}

/// A server may connect with an application_name of its own.
#[test]
fn a_rollback_knows_servers_by_their_locks() {
    let (database, mut connection, _) = fresh();
    assert_eq!(servers(&mut connection).unwrap(), 0);
    let named = format!("{}&application_name=other", database.url);
    let mut node = beckon::store::connect(&named).unwrap();
    nodes::join(&mut node, nodes::NodeId::draw()).unwrap();
    assert_eq!(servers(&mut connection).unwrap(), 1);
}
