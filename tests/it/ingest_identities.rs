//! How many identities a person may have.

use beckon::ingest::decode::Item;
use beckon::ingest::{IDENTITIES_MAX, IngestOptions, Outcome};
use beckon::model::{Call, Event, Identity};
use serde_json::json;

use crate::support::app::TestApp;
use crate::support::one_shard::{Rig, identify, request, rig_with, track};
use crate::support::postgres::database;
use crate::support::sql;

/// Few enough that a test can count them.
const MOST: usize = 4;

fn alias(user: &str, previous: &str) -> Event {
    let mut event = identify(user, None, "{}");
    event.call = Call::Alias {
        previous: Identity::user(previous).unwrap(),
    };
    event
}

fn on_device(user: &str, device: &str, traits: &str) -> Event {
    let mut event = identify(user, None, traits);
    event.anonymous = Some(Identity::anonymous(device).unwrap());
    event
}

/// Whether each event is stored; the rest is refused.
fn are_stored(rig: &Rig, events: Vec<Event>) -> Vec<bool> {
    let items = events
        .into_iter()
        .map(|event| Item::Event(Box::new(event)))
        .collect();
    let outcomes = rig.runtime.block_on(rig.ingest.submit(request(items)));
    let is_stored = |outcome: Outcome| match outcome {
        Outcome::Stored(_) => true,
        Outcome::Rejected(refused) => {
            assert_eq!(refused.code.as_str(), "too_many_identities");
            false
        }
    };
    outcomes.unwrap().into_iter().map(is_stored).collect()
}

/// Events with whether they are stored where nobody may have more than [`MOST`] identities.
fn events() -> Vec<(Event, bool)> {
    vec![
        (track("p", "first", None), true),
        (alias("p", "x1"), true),
        (alias("p", "x2"), true),
        (on_device("p", "d1", "{}"), true),
        // That was the fourth. Neither way round is there room for a fifth.
        (alias("p", "x3"), false),
        (alias("x3", "p"), false),
        (on_device("p", "d2", r#"{"refused": true}"#), false),
        // What links nobody goes on, and so do those whom the refused links named.
        (alias("p", "x1"), true),
        (alias("x2", "x1"), true),
        (on_device("p", "d1", r#"{"plan": "pro"}"#), true),
        (track("x3", "own", None), true),
        (alias("p", "x3"), false),
        (alias("x3", "p"), false),
        // A device of somebody else links nobody, so there is room.
        (on_device("y", "d1", "{}"), true),
        // Two and two fit, and not one more.
        (alias("q", "q1"), true),
        (alias("r", "r1"), true),
        (alias("r", "q"), true),
        (alias("r", "x3"), false),
        (alias("x3", "q1"), false),
        // One and three fit.
        (alias("x3", "x4"), true),
        (alias("x3", "x5"), true),
        (alias("y", "x5"), true),
        (alias("y", "x6"), false),
    ]
}

/// What exceeds the bound is refused and everything else stored, whether events come alone, some at
/// a time or all at once.
#[test]
fn what_gives_somebody_too_many_identities_is_refused_alone() {
    let expected: Vec<bool> = events().iter().map(|(_, is_stored)| *is_stored).collect();
    let refused = expected.iter().filter(|is_stored| !**is_stored).count();
    let mut told = Vec::new();
    for at_once in [1, 5, events().len()] {
        let database = database();
        let bounds = IngestOptions {
            identities_max: MOST,
            ..Default::default()
        };
        let rig = rig_with(&database, &database.url, bounds);
        let mut stored = Vec::new();
        for list in events().chunks(at_once) {
            let list = list.iter().map(|(event, _)| event.clone()).collect();
            stored.extend(are_stored(&rig, list));
        }
        assert_eq!(stored, expected, "{at_once} at once");
        let mut connection = database.connect();
        let mut count = |query: &str| sql::number(&mut connection, query);
        assert_eq!(
            count("SELECT count(*) FROM events"),
            i64::try_from(expected.len() - refused).unwrap()
        );
        assert_eq!(
            count("SELECT count(*) FROM rejected_events WHERE code = 'too_many_identities'"),
            i64::try_from(refused).unwrap()
        );
        let sums =
            "SELECT sum(received - stored - duplicate - rejected)::bigint FROM ingest_ledger";
        assert_eq!(count(sums), 0);
        told.push(sql::texts(
            &mut connection,
            "SELECT p.traits::text || ' ' || string_agg(i.value, ' ' ORDER BY i.value) AS value
             FROM identities i JOIN persons p ON p.id = i.person_id GROUP BY p.id ORDER BY 1",
        ));
    }
    let people = [
        r#"{"plan": "pro"} d1 p x1 x2"#,
        "{} q q1 r r1",
        "{} x3 x4 x5 y",
    ];
    for told in told {
        assert_eq!(told, people);
    }
}

/// Somebody may have more than are allowed now. That costs nothing but further links.
#[test]
fn whoever_has_too_many_identities_keeps_them() {
    let database = database();
    let bounds = IngestOptions {
        identities_max: MOST,
        ..Default::default()
    };
    let rig = rig_with(&database, &database.url, bounds);
    rig.submit(vec![alias("p", "x"), track("q", "e", None)]);
    sql::run(
        &mut database.connect(),
        "INSERT INTO identities (project_id, kind, value, person_id, created_at)
         SELECT project_id, kind, 'more' || number, person_id, created_at
         FROM identities, generate_series(1, 10) number WHERE value = 'p'",
    );
    let list = vec![
        track("more3", "e", None),
        alias("more1", "more10"),
        on_device("more2", "d", "{}"),
        alias("q", "p"),
        alias("q", "new"),
        identify("more4", None, r#"{"plan": "pro"}"#),
    ];
    let stored = are_stored(&rig, list);
    assert_eq!(stored, [true, true, false, false, true, true]);
}

/// The server's own bound, told to the caller.
#[test]
fn the_bound_is_in_the_answer() {
    let app = TestApp::start();
    let call = |previous: &str| json!({"type": "alias", "userId": "p", "previousId": previous});
    app.client().post("/v1/alias", &call("x")).expect(200);
    sql::run(
        &mut app.sql(),
        &format!(
            "INSERT INTO identities (project_id, kind, value, person_id, created_at)
             SELECT project_id, kind, 'more' || number, person_id, created_at
             FROM identities, generate_series(4, {IDENTITIES_MAX}) number WHERE value = 'p'"
        ),
    );
    app.client().post("/v1/alias", &call("last")).expect(200);
    let answer = app
        .client()
        .post("/v1/alias", &call("one_more"))
        .expect(200);
    let code = "too_many_identities";
    assert_eq!(answer["rejected"][0]["code"], code, "{answer}");
    let track = json!({"type": "track", "userId": "p", "event": "e"});
    let list = json!({"batch": [track, call("one_more"), track]});
    let answer = app.client().post("/v1/batch", &list).expect(200);
    assert_eq!(answer["rejected"].as_array().unwrap().len(), 1, "{answer}");
    assert_eq!(answer["rejected"][0]["index"], 1, "{answer}");
    let device = json!({"userId": "p", "anonymousId": "one_more", "traits": {"a": 1}});
    let answer = app.client().post("/v1/identify", &device).expect(200);
    assert_eq!(answer["rejected"][0]["code"], code, "{answer}");
}
