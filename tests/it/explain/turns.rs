//! Explanations that take long end, and keep no neighbour from his.

use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::campaign_flow::{create, identify, on_buy};
use crate::decided_apart::costly;
use crate::support::sql::{self, KeyRow};
use crate::support::{TestApp, pause};

const OTHER_KEY: &str = "read_key_of_a_neighbour_0123456789";

#[test]
fn explanations_that_take_too_long_leave_a_neighbour_his_turn() {
    let app = TestApp::prepared(&[], |sql| {
        let other = sql::project(sql, "neighbour");
        KeyRow::good(other, "read", OTHER_KEY).insert(sql);
    });
    let (admin, neighbour) = (app.admin(), app.with_key(OTHER_KEY));
    let rules = json!({"targeting": costly(-1)});
    create(&admin, on_buy("costly", rules.clone()));
    let copies = "INSERT INTO campaigns (project_id, id, name, status, trigger, body, created_at) \
                  SELECT project_id, 'copy ' || n, name, status, trigger, body, created_at \
                  FROM campaigns, generate_series(1, 600) n";
    sql::run(&mut app.sql(), copies);
    // A change brings the copies with it.
    create(&admin, on_buy("costly", rules));
    let each: Vec<u32> = (0..1_000).collect();
    identify(&app.client(), "ada", json!({"a": each}));
    let question = json!({"user_id": "ada", "event": "buy"});
    let explain = || app.admin().post("/v1/admin/explain", &question);
    thread::scope(|scope| {
        let asked = [(); 2].map(|()| scope.spawn(explain));
        pause(Duration::from_secs(1));
        let nobody = json!({"event": "buy"});
        neighbour.post("/v1/admin/explain", &nobody).expect(200);
        for answer in asked {
            let answer = answer.join().unwrap();
            answer.expect_problem(503, "overloaded");
            assert!(!answer.header("retry-after").is_empty());
        }
    });
}
