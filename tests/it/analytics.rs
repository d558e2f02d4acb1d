//! How campaigns do, counted from interactions, and that it is said when not all were counted.

use beckon::model::ProjectId;
use beckon::store::analytics;
use chrono::TimeDelta;
use serde_json::json;

use crate::support::{TestApp, now, sql};

#[test]
fn interactions_are_counted_by_day_and_for_one_campaign() {
    let app = TestApp::start();
    let admin = app.admin();
    let made = admin.post("/v1/admin/campaigns", &json!({"name": "welcome"}));
    let campaign = made.expect(201)["id"].as_str().unwrap().to_owned();
    let track = |event: &str, campaign: &str| {
        json!({"type": "track", "userId": "u", "event": event,
               "properties": {"campaign_id": campaign}})
    };
    let batch = json!({"batch": [
        track("nudge_impression", &campaign),
        track("campaign_viewed", &campaign),
        track("nudge_impression", "other"),
        track("nudge_click", &campaign),
        track("opened", &campaign),
    ]});
    app.client().post("/v1/batch", &batch).expect(200);
    let overview = admin.get("/v1/analytics/overview").expect(200);
    let report = admin.get(&format!("/v1/analytics/campaigns/{campaign}"));
    let report = report.expect(200);
    for (answer, impressions, percent) in [(overview, 3, "33.33"), (report, 2, "50.00")] {
        assert_eq!(answer["impressions"], impressions, "{answer}");
        assert_eq!(answer["clicks"], 1, "{answer}");
        assert_eq!(answer["ctr"], percent, "{answer}");
        let days = answer["daily"].as_array().unwrap();
        let seen = days.iter().map(|day| day["impressions"].as_i64().unwrap());
        assert_eq!(seen.sum::<i64>(), impressions, "{answer}");
        assert_eq!(answer.get("totals_capped"), None, "{answer}");
    }
}

#[test]
fn the_count_tells_that_there_are_more_than_its_cap() {
    let app = TestApp::start();
    let mut connection = app.sql();
    let project = ProjectId(sql::default_project(&mut connection));
    sql::run(
        &mut connection,
        &format!(
            "INSERT INTO events (received_on, id, project_id, person_id, kind, name, timestamp,
                                 received_at, properties)
             SELECT current_date, gen_random_uuid(), {}, 1, 0, 'nudge_click',
                    now() - day * interval '1 day', now(),
                    json_build_object('campaign_id', 'c' || day)::text::json
             FROM generate_series(1, 5) AS day",
            project.0
        ),
    );
    let since = now() - TimeDelta::days(1);
    for (campaign, cap, is_capped, counted) in [
        (None, 6, false, 5),
        (None, 5, false, 5),
        (None, 4, true, 5),
        (None, 2, true, 3),
        (Some("c3"), 1, false, 1),
        (Some("c3"), 0, true, 1),
    ] {
        let found = analytics::interactions(
            &mut connection,
            project,
            &["nudge_click"],
            campaign,
            since,
            cap,
        )
        .unwrap();
        let count = found.by_day.iter().map(|row| row.count).sum::<i64>();
        assert_eq!(
            (found.is_capped, count),
            (is_capped, counted),
            "{campaign:?} {cap}"
        );
    }
}
