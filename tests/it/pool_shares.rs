//! What admins read must not take the database from what applications wait for.

use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection;

use crate::support::sql::{self, KeyRow};
use crate::support::{TestApp, eventually};

const OTHER_ADMIN: &str = "other_admin_0123456789abcdef01234567";

/// One list waits for a lock, as it might for a slow query; it is asked for again and again.
#[test]
fn lists_of_one_project_leave_connections_to_everybody_else() {
    let app = TestApp::prepared(&[("BECKON_POOL_SIZE", "4")], |sql| {
        let other = sql::project(sql, "other");
        KeyRow::good(other, "admin", OTHER_ADMIN).insert(sql);
    });
    let mut locked = app.sql();
    locked
        .batch_execute("BEGIN; LOCK TABLE rejected_events IN ACCESS EXCLUSIVE MODE")
        .unwrap();
    std::thread::scope(|scope| {
        let lists: Vec<_> = (0..12)
            .map(|_| scope.spawn(|| app.admin().get("/v1/admin/rejected").status))
            .collect();
        let mut sql = app.sql();
        eventually("a list waits", Duration::from_secs(10), || {
            let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted \
                 AND relation = 'rejected_events'::regclass";
            (sql::number(&mut sql, waits) > 0).then_some(())
        });
        let begun = Instant::now();
        app.nobody().get("/readyz").expect(200);
        for number in 0..10 {
            let path = format!("/v1/campaigns?user_id=nobody{number}");
            app.client().get(&path).expect(200);
        }
        app.with_key(OTHER_ADMIN).get("/v1/admin/users").expect(200);
        // They would have waited for the lists' deadline, 1.8 s, at least once.
        assert!(
            begun.elapsed() < Duration::from_millis(1_500),
            "{:?}",
            begun.elapsed()
        );
        for list in lists {
            assert_eq!(list.join().unwrap(), 503);
        }
    });
    locked.batch_execute("COMMIT").unwrap();
    app.admin().get("/v1/admin/rejected").expect(200);
}
