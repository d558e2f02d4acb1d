//! What saving a campaign says about it.

use beckon::error::WarningCode;
use serde_json::{Value, json};

use crate::campaign_flow::{NONE, create, identify, on_buy, shown};
use crate::support::sql::{self, KeyRow};
use crate::support::{Client, TestApp};

const OTHER_ADMIN: &str = "admin_key_of_another_project_0123456789";

/// The warnings of an answer as codes and pointers.
fn warnings(answer: &Value) -> Vec<(String, String)> {
    let list = answer["warnings"].as_array().into_iter().flatten();
    list.map(|warning| {
        assert!(
            !warning["message"].as_str().unwrap().is_empty(),
            "{warning}"
        );
        let text = |name: &str| warning[name].as_str().unwrap().to_owned();
        (text("code"), text("pointer"))
    })
    .collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    let pairs = expected.iter();
    pairs
        .map(|(code, pointer)| ((*code).to_owned(), (*pointer).to_owned()))
        .collect()
}

fn age(operator: &str, bound: i64) -> Value {
    json!({operator: [{"var": "user.traits.age"}, bound]})
}

/// A user with an age, who buys.
fn seen(client: &Client) {
    identify(client, "ada", json!({"age": 30, "city": "Oslo"}));
    assert_eq!(shown(client, "ada", "buy", json!({})), NONE);
}

#[test]
fn a_live_campaign_that_can_never_be_shown_needs_force() {
    let app = TestApp::start();
    let (admin, client) = (app.admin(), app.client());
    seen(&client);
    let never = json!({"and": [age(">", 50), age("==", 20)]});
    let campaign = on_buy("never", json!({"targeting": never}));
    let answer = admin.post("/v1/admin/campaigns", &campaign);
    let problem = answer.expect_problem(422, "never_shown");
    assert_eq!(problem["details"][0]["code"], "never_true", "{problem}");
    assert_eq!(problem["details"][0]["path"], "/targeting", "{problem}");
    assert_eq!(admin.get("/v1/admin/campaigns").expect(200)["total"], 0);
    let odd = admin.post("/v1/admin/campaigns?force=maybe", &campaign);
    odd.expect_problem(400, "invalid_field");

    let expected = pairs(&[("never_true", "/targeting")]);
    let forced = admin
        .post("/v1/admin/campaigns?force=true", &campaign)
        .expect(201);
    assert_eq!(warnings(&forced), expected);
    assert_eq!(shown(&client, "ada", "buy", json!({})), NONE);
    // A draft may be whatever it is, until somebody activates it.
    let draft = on_buy("draft", json!({"targeting": never, "status": "draft"}));
    let saved = admin.post("/v1/admin/campaigns", &draft).expect(201);
    assert_eq!(warnings(&saved), expected);
    let path = format!("/v1/admin/campaigns/{}", saved["id"].as_str().unwrap());
    let activate = json!({"status": "active"});
    admin
        .put(&path, &activate)
        .expect_problem(422, "never_shown");
    assert_eq!(admin.get(&path).expect(200)["status"], "draft");
    let mended = json!({"status": "active", "targeting": age(">", 20)});
    let saved = admin.put(&path, &mended).expect(200);
    assert_eq!(warnings(&saved), []);
    assert_eq!(shown(&client, "ada", "buy", json!({})), ["draft"]);
    admin
        .put(&path, &json!({"targeting": never}))
        .expect_problem(422, "never_shown");
    let forced = admin.put(&format!("{path}?force=true"), &json!({"targeting": never}));
    assert_eq!(warnings(&forced.expect(200)), expected);
    assert_eq!(shown(&client, "ada", "buy", json!({})), NONE);
}

#[test]
fn what_the_seeds_clients_send_is_only_warned_of() {
    let app = TestApp::start();
    let (admin, client) = (app.admin(), app.client());
    seen(&client);
    let city = |value: &str| json!({"type": "attribute", "field": "city", "operator": "==", "value": value});
    let both = json!({"rules": [city("Oslo"), city("Bergen")]});
    let answer = admin
        .post("/v1/admin/campaigns", &on_buy("both", both))
        .expect(201);
    assert_eq!(warnings(&answer), pairs(&[("never_true", "/rules")]));
    let odd = json!([{"type": "attribute", "field": "city", "operator": "like", "value": "O"}]);
    let answer = admin.post("/v1/admin/campaigns", &on_buy("odd", json!({"rules": odd})));
    assert_eq!(
        warnings(&answer.expect(201)),
        pairs(&[
            ("unknown_operator", "/rules/0/operator"),
            ("never_true", "/rules")
        ])
    );
    let ended = json!({"schedule": {"end": "2020-01-01T00:00:00Z"}});
    let answer = admin
        .post("/v1/admin/campaigns", &on_buy("ended", ended))
        .expect(201);
    assert_eq!(
        warnings(&answer),
        pairs(&[("schedule_ended", "/schedule/end")])
    );
    let capped = json!({"rollout": 10, "frequency": {"count": 1}, "holdout": null});
    let answer = admin
        .post("/v1/admin/campaigns", &on_buy("capped", capped))
        .expect(201);
    assert_eq!(
        warnings(&answer),
        pairs(&[("not_enforced", "/frequency"), ("not_enforced", "/rollout")])
    );
    let placeholder = json!([{"type": "event", "field": "unknown", "operator": "==", "value": ""}]);
    let answer = admin.post(
        "/v1/admin/campaigns",
        &on_buy("new", json!({"rules": placeholder})),
    );
    assert_eq!(
        warnings(&answer.expect(201)),
        pairs(&[("placeholder_ignored", "/rules/0")])
    );
}

#[test]
fn names_that_nobody_has_sent_are_pointed_out() {
    let app = TestApp::start();
    let (admin, client) = (app.admin(), app.client());
    seen(&client);
    let name = |name: &str| json!({"==": [{"var": "event.name"}, name]});
    let targeting = json!({"or": [
        {"exists": "user.traits.shoe_size"},
        age(">", 20),
        {"!": [name("buy")]},
        {"within_last": [{"var": "user.traits.city"}, "91d"]},
        {"within_last": [{"var": "user.traits.city"}, "90d"]},
        {"within_last": [{"var": "user.created_at"}, "91d"]},
    ]});
    let rules = json!([
        {"type": "attribute", "field": "city", "operator": "==", "value": "Oslo"},
        {"type": "attribute", "field": "weight", "operator": ">", "value": 1},
        {"type": "event", "field": "sku", "operator": "==", "value": 1},
    ]);
    let campaign = on_buy("odd", json!({"targeting": targeting, "rules": rules}));
    let campaigns = "/v1/admin/campaigns";
    let answer = admin.post(campaigns, &campaign).expect(201);
    let expected = pairs(&[
        ("trait_never_seen", "/rules/1/field"),
        ("trait_never_seen", "/targeting/or/0/exists"),
        ("window_exceeds_retention", "/targeting/or/3/within_last/1"),
    ]);
    assert_eq!(warnings(&answer), expected);
    let path = format!("{campaigns}/{}", answer["id"].as_str().unwrap());
    let answer = admin.put(&path, &json!({"trigger": "sell"})).expect(200);
    assert_eq!(
        warnings(&answer)[0],
        pairs(&[("event_never_seen", "/trigger")])[0]
    );
    // Once it was sent, nothing is said of it any more.
    assert_eq!(shown(&client, "ada", "sell", json!({})), NONE);
    identify(&client, "bob", json!({"shoe_size": 43, "weight": null}));
    let answer = admin.put(&path, &json!({})).expect(200);
    assert_eq!(warnings(&answer), expected[2..]);
}

#[test]
fn another_projects_names_are_not_seen() {
    let app = TestApp::prepared(&[], |sql| {
        let other = sql::project(sql, "other");
        KeyRow::good(other, "admin", OTHER_ADMIN).insert(sql);
    });
    seen(&app.client());
    let other = app.with_key(OTHER_ADMIN);
    let campaign = on_buy("theirs", json!({"targeting": age(">", 20)}));
    let answer = other.post("/v1/admin/campaigns", &campaign).expect(201);
    let expected = [
        ("event_never_seen", "/trigger"),
        ("trait_never_seen", "/targeting/>/0/var"),
    ];
    assert_eq!(warnings(&answer), pairs(&expected));
}

#[test]
fn a_campaign_that_another_one_of_its_slot_hides_is_pointed_out() {
    let app = TestApp::start();
    let (admin, client) = (app.admin(), app.client());
    seen(&client);
    let in_slot = |name: &str, slot: &str, priority: i64, targeting: Value| {
        let more = json!({"slot": slot, "priority": priority, "targeting": targeting});
        admin
            .post("/v1/admin/campaigns", &on_buy(name, more))
            .expect(201)
    };
    let wide = in_slot("wide", "home", 10, age(">", 18));
    assert_eq!(warnings(&wide), []);
    let path = format!("/v1/admin/campaigns/{}", wide["id"].as_str().unwrap());
    // It does not hide itself.
    assert_eq!(
        warnings(&admin.put(&path, &json!({"priority": 9})).expect(200)),
        []
    );
    let shadowed = pairs(&[("shadowed", "/slot")]);
    let narrow = in_slot("narrow", "home", 5, age(">", 21));
    assert_eq!(warnings(&narrow), shadowed);
    let message = narrow["warnings"][0]["message"].as_str().unwrap();
    assert!(message.contains(wide["id"].as_str().unwrap()), "{message}");
    for (slot, priority, bound) in [("other", 5, 21), ("home", 10, 21), ("home", 5, 17)] {
        let answer = in_slot("seen", slot, priority, age(">", bound));
        assert_eq!(warnings(&answer), [], "{slot} {priority} {bound}");
    }
    let edited = json!({"slot": "home", "priority": 8, "targeting": age(">", 19)});
    let validate = |body: Value| {
        let answer = admin.post("/v1/admin/campaigns/validate", &body);
        warnings(&answer.expect(200))
    };
    let mut edited = on_buy("wide", edited);
    assert_eq!(validate(edited.clone()), shadowed);
    edited["id"] = wide["id"].clone();
    assert_eq!(validate(edited), [], "it is an edit of the wide one");
    admin.put(&path, &json!({"status": "paused"})).expect(200);
    let answer = in_slot("now seen", "home", 5, age(">", 19));
    assert_eq!(warnings(&answer), []);
}

#[test]
fn a_campaign_can_be_checked_without_being_saved() {
    let app = TestApp::start();
    let (admin, client) = (app.admin(), app.client());
    seen(&client);
    let validate = "/v1/admin/campaigns/validate";
    let fine = on_buy("fine", json!({"targeting": age(">", 18)}));
    let answer = admin.post(validate, &fine).expect(200);
    assert_eq!(
        answer,
        json!({"warnings": [], "evaluation":
            {"cost": 3, "indexed": true, "quarantine": null, "broken": null}})
    );
    let always = on_buy("always", json!({"targeting": {"exists": "user.id"}}));
    let answer = admin.post(validate, &always).expect(200);
    assert_eq!(warnings(&answer), pairs(&[("always_true", "/targeting")]));
    let never = on_buy(
        "never",
        json!({"targeting": {"in": [{"var": "user.id"}, []]}}),
    );
    admin
        .post(validate, &never)
        .expect_problem(422, "never_shown");
    admin
        .post(&format!("{validate}?force=true"), &never)
        .expect(200);
    let bad = on_buy("bad", json!({"targeting": {"nope": 1}}));
    let problem = admin
        .post(validate, &bad)
        .expect_problem(422, "invalid_rule");
    assert_eq!(
        problem["details"][0]["code"], "unknown_operator",
        "{problem}"
    );
    admin
        .post(validate, &json!({}))
        .expect_problem(400, "invalid_field");
    assert_eq!(admin.get("/v1/admin/campaigns").expect(200)["total"], 0);
}

#[test]
fn what_a_campaign_may_cost_is_answered_and_not_stored() {
    let app = TestApp::start();
    let admin = app.admin();
    let plain = json!({"==": [{"var": ""}, 1]});
    let nested = json!({"some": [{"var": "user.traits.list"}, plain]});
    let saved = admin
        .post(
            "/v1/admin/campaigns",
            &on_buy("nested", json!({"targeting": nested})),
        )
        .expect(201);
    // The operator, the list, and three nodes for each of a thousand elements.
    assert_eq!(saved["evaluation"]["cost"], 3_002, "{saved}");
    let path = format!("/v1/admin/campaigns/{}", saved["id"].as_str().unwrap());
    assert_eq!(admin.get(&path).expect(200)["evaluation"]["cost"], 3_002);
    let list = admin.get("/v1/admin/campaigns").expect(200);
    assert_eq!(list["campaigns"][0]["evaluation"]["cost"], 3_002);
    let answer = admin
        .put(&path, &json!({"evaluation": {"cost": 1}}))
        .expect(200);
    assert_eq!(answer["evaluation"]["cost"], 3_002);
    let wide: Vec<Value> = (0..100).map(|_| plain.clone()).collect();
    let twice = json!({"some": [{"var": "user.traits.list"},
        {"some": [{"var": ""}, {"or": wide}]}]});
    let refused = admin.put(&path, &json!({"targeting": {"!": [twice]}}));
    let problem = refused.expect_problem(422, "invalid_rule");
    assert_eq!(problem["details"][0]["path"], "/targeting/!/0/some");
    assert_eq!(problem["details"][0]["code"], "rule_too_costly");
    assert_eq!(create(&admin, json!({"name": "free"})).len(), 36);
}

#[test]
fn every_warning_is_documented() {
    let page = include_str!("../../docs/campaigns.md");
    let rows = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let documented: Vec<&str> = rows.collect();
    for code in WarningCode::ALL {
        assert!(documented.contains(&code.as_str()), "{}", code.as_str());
    }
}

#[test]
fn a_segment_that_would_contain_itself_is_refused_by_name() {
    let app = TestApp::start();
    let save = |name: &str, within: &str| {
        let body = json!({"name": name, "targeting": {"in_segment": within}});
        app.admin().post("/v1/admin/segments", &body)
    };
    let refused = |name: &str, within: &str| {
        let problem = save(name, within).expect_problem(422, "invalid_rule");
        problem.to_string()
    };
    let own = refused("A", "A");
    assert!(own.contains("would contain itself\""), "{own}");
    save("A", "B").expect(201);
    save("B", "C").expect(201);
    let around = refused("C", "A");
    assert!(around.contains("itself, by way of A > B\""), "{around}");
}

/// A segment's id, by its name.
fn save_segment(admin: &Client, name: &str, targeting: &Value) -> (String, Value) {
    let segment = json!({"name": name, "targeting": targeting});
    let answer = admin.post("/v1/admin/segments", &segment).expect(201);
    (answer["id"].as_str().unwrap().to_owned(), answer)
}

#[test]
fn a_segment_that_goes_or_is_renamed_says_what_named_it() {
    let app = TestApp::start();
    let admin = app.admin();
    let (vip, answer) = save_segment(&admin, " vip ", &age(">", 20));
    assert_eq!(warnings(&answer), []);
    let inside = |name: &str| json!({"in_segment": name});
    save_segment(&admin, "other", &inside("vip"));
    let campaign = on_buy("by id", json!({"segments": {"include": [vip]}}));
    let campaign = create(&admin, campaign);
    let flag = json!({"key": "beta", "targeting": inside("vip")});
    admin.post("/v1/admin/features", &flag).expect(200);

    // Another of that name, or one whose name is its id, changes what rules mean or may mean.
    let taken = pairs(&[("segment_name_taken", "/name")]);
    let (second, answer) = save_segment(&admin, "vip", &age(">", 30));
    assert_eq!(warnings(&answer), taken);
    let message = answer["warnings"][0]["message"].as_str().unwrap();
    assert!(message.contains(&vip), "{message}");
    assert_eq!(warnings(&save_segment(&admin, &vip, &age(">", 1)).1), taken);
    // Nobody means the second.
    let path = format!("/v1/admin/segments/{second}");
    assert_eq!(admin.delete(&path).expect(200), json!({"ok": true}));

    let path = format!("/v1/admin/segments/{vip}");
    let in_use = |answer: &Value, pointer: &str, users: &[&str], others: &[&str]| {
        assert_eq!(
            warnings(answer)[0],
            pairs(&[("segment_in_use", pointer)])[0]
        );
        let message = answer["warnings"][0]["message"].as_str().unwrap();
        assert!(users.iter().all(|it| message.contains(it)), "{message}");
        assert!(!others.iter().any(|it| message.contains(it)), "{message}");
    };
    let same = admin.put(&path, &json!({"name": "vip"})).expect(200);
    assert!(!same["warnings"].to_string().contains("in_use"), "{same}");
    let renamed = admin.put(&path, &json!({"name": "VIP"})).expect(200);
    in_use(&renamed, "/name", &["other", "beta"], &[campaign.as_str()]);
    admin.put(&path, &json!({"name": "vip"})).expect(200);
    let gone = admin.delete(&path).expect(200);
    assert_eq!(gone["ok"], true);
    in_use(&gone, "", &["other", "beta", &campaign], &[]);
    admin.delete(&path).expect_problem(404, "not_found");
}

#[test]
fn a_segment_is_warned_of_as_a_campaign_is() {
    let app = TestApp::start();
    let admin = app.admin();
    let odd = json!({"type": "attribute", "field": "city", "operator": "like", "value": "O"});
    let segment = json!({"name": "odd", "rules": [odd]});
    let answer = admin.post("/v1/admin/segments", &segment).expect(201);
    let expected = [("unknown_operator", "/rules/0/operator")];
    assert_eq!(warnings(&answer), pairs(&expected));
    let event = json!({">": [{"var": "event.properties.total"}, 10]});
    let (_, answer) = save_segment(&admin, "spenders", &event);
    assert!(
        warnings(&answer).contains(&pairs(&[("event_in_segment", "/targeting")])[0]),
        "{answer}"
    );
    let event = json!({"type": "event", "field": "total", "operator": ">", "value": 10});
    let segment = json!({"name": "buyers", "rules": [event]});
    let answer = admin.post("/v1/admin/segments", &segment).expect(201);
    assert_eq!(warnings(&answer), pairs(&[("event_in_segment", "/rules")]));
    let (_, answer) = save_segment(&admin, "lost", &json!({"in_segment": "nowhere"}));
    let expected = [("unknown_segment", "/targeting")];
    assert_eq!(warnings(&answer), pairs(&expected));
}

/// Each is a level of recursion. One that an import brought must keep no others from being saved.
#[test]
fn only_so_many_segments_follow_on_each_other() {
    let app = TestApp::start();
    let admin = app.admin();
    let segment = |number: usize| {
        let before = format!("s{}", number - 1);
        json!({"name": format!("s{number}"), "targeting": {"in_segment": before}})
    };
    admin
        .post("/v1/admin/segments", &json!({"name": "s1"}))
        .expect(201);
    for number in 2..=32 {
        admin
            .post("/v1/admin/segments", &segment(number))
            .expect(201);
    }
    let refused = admin.post("/v1/admin/segments", &segment(33));
    let problem = refused.expect_problem(422, "invalid_rule");
    assert_eq!(
        problem["details"][0]["code"], "segment_chain_too_long",
        "{problem}"
    );
    let mut connection = app.sql();
    let project = sql::default_project(&mut connection);
    let body = sql::quoted(&segment(33).to_string());
    let imported = format!(
        "INSERT INTO segments (project_id, id, name, body, created_at) \
         VALUES ({project}, 'imported', 's33', {body}, now())"
    );
    sql::run(&mut connection, &imported);
    let other = json!({"name": "other", "targeting": {"in_segment": "s1"}});
    admin.post("/v1/admin/segments", &other).expect(201);
}

#[test]
fn a_project_holds_so_many_segments_and_so_much_of_segments_and_flags() {
    let app = TestApp::start();
    let (admin, mut connection) = (app.admin(), app.sql());
    let project = sql::default_project(&mut connection);
    let fill = |bytes: usize, count: u32| {
        format!(
            "INSERT INTO segments (project_id, id, name, body, created_at) \
             SELECT {project}, 's' || n, 's' || n, json_build_object('name', 's' || n, \
             'note', repeat('a', {bytes})), now() FROM generate_series(1, {count}) n"
        )
    };
    sql::run(&mut connection, &fill(1, 9_999));
    let segment = |name: &str| json!({"name": name});
    admin.post("/v1/admin/segments", &segment("a")).expect(201);
    let answer = admin.post("/v1/admin/segments", &segment("b"));
    answer.expect_problem(409, "conflict");
    sql::run(&mut connection, "DELETE FROM segments");

    sql::run(&mut connection, &fill(1_000_000, 68));
    let answer = admin.post("/v1/admin/segments", &segment("c"));
    answer.expect_problem(409, "conflict");
    let path = "/v1/admin/segments/s1";
    let longer = json!({"more": "x"});
    admin.put(path, &longer).expect_problem(409, "conflict");
    admin.put(path, &json!({"note": "a"})).expect(200);
    admin.post("/v1/admin/segments", &segment("c")).expect(201);

    sql::run(
        &mut connection,
        &format!(
            "INSERT INTO feature_flags (project_id, key, enabled, value, created_at) \
             SELECT {project}, 'f' || n, true, to_json(repeat('a', 1000000)), now() \
             FROM generate_series(1, 68) n"
        ),
    );
    let flag = |key: &str, value: &str| json!({"key": key, "value": value});
    let answer = admin.post("/v1/admin/features", &flag("new", "b"));
    answer.expect_problem(409, "conflict");
    admin
        .post("/v1/admin/features", &flag("f1", "b"))
        .expect(200);
    admin
        .post("/v1/admin/features", &flag("new", "b"))
        .expect(200);
}

/// An active campaign as an import may leave it, by its path.
fn imported(app: &TestApp, id: &str, body: &Value) -> String {
    let mut connection = app.sql();
    let project = sql::default_project(&mut connection);
    let body = sql::quoted(&body.to_string());
    let row = format!(
        "INSERT INTO campaigns (project_id, id, name, status, trigger, body, created_at)
         VALUES ({project}, '{id}', 'old', 'active', 'buy', {body}, now())"
    );
    sql::run(&mut connection, &row);
    format!("/v1/admin/campaigns/{id}")
}

#[test]
fn stored_rules_that_are_no_list_are_not_emptied_by_another_change() {
    let app = TestApp::start();
    let (admin, client) = (app.admin(), app.client());
    let rules = json!({"and": [{"==": [1, 2]}]});
    let body = on_buy("old", json!({"rules": rules, "config": "odd"}));
    let path = imported(&app, "broken", &body);
    let read = admin.get(&path).expect(200);
    assert_eq!((&read["rules"], &read["config"]), (&json!([]), &json!({})));
    // It cannot be compiled, and nobody is shown it.
    assert_eq!(read["evaluation"]["cost"], Value::Null, "{read}");
    let broken = json!({"code": "not_a_list", "pointer": "/rules",
                        "message": "a rule list is an array"});
    assert_eq!(read["evaluation"]["broken"], broken, "{read}");
    let list = admin.get("/v1/admin/campaigns").expect(200);
    assert_eq!(list["campaigns"][0]["evaluation"]["broken"], broken);
    let refused = admin.put(&path, &json!({"name": "new"}));
    let problem = refused.expect_problem(422, "invalid_rule");
    assert_eq!(problem["details"][0]["path"], "/rules", "{problem}");
    assert_eq!(shown(&client, "ada", "buy", json!({})), NONE);
    let kept = "SELECT body->'rules' AS rules FROM campaigns WHERE id = 'broken'";
    assert_eq!(sql::rows(&mut app.sql(), kept), [json!({"rules": rules})]);
    // Whoever sends rules means them.
    let mended = admin.put(&path, &json!({"rules": []})).expect(200);
    let sound = json!({"cost": 0, "indexed": true, "quarantine": null, "broken": null});
    assert_eq!(mended["evaluation"], sound);
    assert_eq!(shown(&client, "ada", "buy", json!({})), ["old"]);
}

#[test]
fn a_stored_field_that_cannot_be_compiled_is_named() {
    let app = TestApp::start();
    let path = imported(&app, "first", &on_buy("old", json!({"priority": "first"})));
    let read = app.admin().get(&path).expect(200);
    let broken = &read["evaluation"]["broken"];
    assert_eq!(
        (&broken["code"], &broken["pointer"]),
        (&json!("invalid_field"), &json!("/priority")),
        "{read}"
    );
}

#[test]
fn what_is_odd_and_breaks_nothing_does_not_refuse_another_change() {
    let app = TestApp::start();
    let admin = app.admin();
    let long = "n".repeat(300);
    let body = json!({"name": long, "status": null, "config": [1], "trigger": "buy"});
    let path = imported(&app, "odd", &body);
    let saved = admin.put(&path, &json!({"priority": 3})).expect(200);
    assert_eq!(
        (&saved["name"], &saved["priority"]),
        (&json!(long), &json!(3))
    );
    let kept = "SELECT name, status, body->'config' AS config FROM campaigns WHERE id = 'odd'";
    let expected = json!({"name": long, "status": null, "config": [1]});
    assert_eq!(sql::rows(&mut app.sql(), kept), [expected]);
    // What is sent is looked at.
    for odd in [
        json!({"name": long}),
        json!({"status": null}),
        json!({"config": [1]}),
    ] {
        admin.put(&path, &odd).expect_problem(400, "invalid_field");
    }
}

#[test]
fn a_deleted_campaign_is_answered_whole() {
    let app = TestApp::start();
    let admin = app.admin();
    let more = json!({"targeting": age(">", 18)});
    let path = format!(
        "/v1/admin/campaigns/{}",
        create(&admin, on_buy("gone", more))
    );
    let read = admin.get(&path).expect(200);
    assert_eq!(admin.delete(&path).expect(200)["deleted"], read);
}
