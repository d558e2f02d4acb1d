//! Two servers on one database.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::campaign_flow::{NONE, create, identify, on_buy, shown};
use crate::support::metrics::Scrape;
use crate::support::{ADMIN_KEY, Client, TestApp, eventually, pause, sql};

#[test]
fn a_change_on_one_node_is_live_on_another_within_a_second() {
    let app = TestApp::start();
    let second = app.another_node();
    let here = app.client();
    let there = Client::new(second.base()).key(ADMIN_KEY);
    identify(&here, "u", json!({"plan": "pro"}));
    // The first track makes the other node load the project.
    assert_eq!(shown(&there, "u", "buy", json!({})), NONE);
    let mut slowest = Duration::ZERO;
    for round in 0..5 {
        let name = format!("round {round}");
        let id = create(
            &app.admin(),
            on_buy(
                &name,
                json!({"targeting": {"==": [{"var": "user.traits.plan"}, "pro"]}}),
            ),
        );
        let saved = Instant::now();
        eventually("live on the other node", Duration::from_secs(10), || {
            (shown(&there, "u", "buy", json!({})) == [name.as_str()]).then_some(())
        });
        slowest = slowest.max(saved.elapsed());
        let path = format!("/v1/admin/campaigns/{id}");
        app.admin().delete(&path).expect(200);
        let saved = Instant::now();
        eventually("gone on the other node", Duration::from_secs(10), || {
            (shown(&there, "u", "buy", json!({})) == NONE).then_some(())
        });
        slowest = slowest.max(saved.elapsed());
    }
    // One second is promised; the margin is for a machine that does other things too.
    assert!(slowest < Duration::from_millis(1_500), "{slowest:?}");
    // What one node learned of a person counts on the other.
    let plan = json!({"targeting": {"==": [{"var": "user.traits.plan"}, "free"]}});
    create(&app.admin(), on_buy("free", plan));
    identify(&here, "u", json!({"plan": "free"}));
    pause(Duration::from_millis(1_500));
    assert_eq!(shown(&there, "u", "buy", json!({})), ["free"]);
    identify(&there, "u", json!({"plan": "pro"}));
    assert_eq!(shown(&here, "u", "buy", json!({})), NONE);
}

/// A node whose broadcast connection is gone still writes, so the others must go on counting it:
/// who believes to be alone remembers people.
#[test]
fn a_node_that_lost_its_broadcast_is_still_counted() {
    let app = TestApp::start();
    let second = app.another_node();
    let there = Client::new(second.base()).key(ADMIN_KEY);
    let track = |user: &str| {
        let event = json!({"user_id": user, "event": "e"});
        app.client().post("/v1/track", &event).expect(200);
    };
    // Both of its shards have work.
    (0..20).for_each(|user| track(&user.to_string()));
    let nodes = || Scrape::of(&there).value("beckon_nodes");
    eventually("two nodes", Duration::from_secs(10), || {
        (nodes() > 1.5).then_some(())
    });
    let mut sql = app.sql();
    // The sessions of the first node's number, which has the most of them; the second's only one
    // is that of its broadcast.
    let end_broadcast = "SELECT pg_terminate_backend(pid)::int::text AS value FROM pg_stat_activity \
        JOIN pg_locks USING (pid) WHERE locktype = 'advisory' AND objsubid = 2 \
        AND pg_stat_activity.datname = current_database() AND query ~ 'pg_locks|project_revisions' \
        AND objid = (SELECT objid FROM pg_locks JOIN pg_database d ON d.oid = database \
            WHERE locktype = 'advisory' AND objsubid = 2 AND datname = current_database() \
            GROUP BY objid ORDER BY count(*) DESC LIMIT 1)";
    let (mut ended, began) = (0, Instant::now());
    while began.elapsed() < Duration::from_secs(4) {
        ended += sql::texts(&mut sql, end_broadcast).len();
        assert!(nodes() > 1.5, "it is not counted any more");
        pause(Duration::from_millis(50));
    }
    assert!(ended > 2, "{ended} connections were ended");
    (0..20).for_each(|user| track(&user.to_string()));
}
