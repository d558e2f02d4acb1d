//! Who is who: identities, links between them, and traits.

use std::collections::BTreeSet;
use std::sync::Barrier;
use std::thread;

use serde_json::{Value, json};

use crate::support::sql;
use crate::support::{Client, TestApp};

fn people(app: &TestApp) -> i64 {
    sql::number(
        &mut app.sql(),
        "SELECT count(*) FROM persons WHERE merged_into IS NULL",
    )
}

fn track(client: &Client, body: Value) {
    client.post("/v1/track", &body).expect(200);
}

/// The names of the events in a user's history.
fn history(app: &TestApp, user: &str) -> BTreeSet<String> {
    let answer = app
        .admin()
        .get(&format!("/v1/admin/users/{user}/events?limit=100"))
        .expect(200);
    answer["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["event"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn an_identify_with_both_ids_makes_one_person_and_history_follows() {
    let app = TestApp::start();
    let client = app.client();
    for event in ["seen before", "seen twice before"] {
        track(&client, json!({"anonymousId": "anon-1", "event": event}));
    }
    client
        .post(
            "/v1/identify",
            &json!({"anonymousId": "anon-1", "traits": {"from": "ad"}}),
        )
        .expect(200);
    assert_eq!(people(&app), 1);
    client
        .post(
            "/v1/identify",
            &json!({"userId": "ada", "anonymousId": "anon-1", "traits": {"plan": "pro"}}),
        )
        .expect(200);
    track(&client, json!({"userId": "ada", "event": "seen after"}));
    track(
        &client,
        json!({"anonymousId": "anon-1", "event": "seen later"}),
    );
    assert_eq!(people(&app), 1);
    let seen = history(&app, "ada");
    for event in [
        "seen before",
        "seen twice before",
        "seen after",
        "seen later",
    ] {
        assert!(seen.contains(event), "{event}: {seen:?}");
    }
    let person = app.admin().get("/v1/admin/users/ada").expect(200);
    assert_eq!(
        (&person["traits"]["from"], &person["traits"]["plan"]),
        (&json!("ad"), &json!("pro")),
        "{person}"
    );
    let named = person["identities"].to_string();
    assert!(
        named.contains("anon-1") && named.contains("ada"),
        "{person}"
    );
}

#[test]
fn two_persons_with_history_become_one_by_identify() {
    let app = TestApp::start();
    let client = app.client();
    // Both exist before the link; the older one survives, and keeps what it was first seen with.
    track(
        &client,
        json!({"anonymousId": "anon-1", "event": "anonymous event"}),
    );
    track(&client, json!({"userId": "ada", "event": "known event"}));
    assert_eq!(people(&app), 2);
    client
        .post(
            "/v1/identify",
            &json!({"userId": "ada", "anonymousId": "anon-1"}),
        )
        .expect(200);
    assert_eq!(people(&app), 1);
    let seen = history(&app, "ada");
    assert!(
        seen.contains("anonymous event") && seen.contains("known event"),
        "{seen:?}"
    );
    let survivor = sql::rows(
        &mut app.sql(),
        "SELECT bucketing_kind, bucketing_value FROM persons WHERE merged_into IS NULL",
    );
    assert_eq!(
        survivor[0]["bucketing_value"], "anon-1",
        "the older one survives"
    );
    let total = app.admin().get("/v1/admin/users").expect(200);
    assert_eq!(total["total"], 1, "{total}");
}

#[test]
fn a_user_and_an_anonymous_of_the_same_name_are_two() {
    let app = TestApp::start();
    let client = app.client();
    track(&client, json!({"userId": "abc", "event": "by user"}));
    track(
        &client,
        json!({"anonymousId": "abc", "event": "by anonymous"}),
    );
    client
        .post(
            "/v1/identify",
            &json!({"userId": "abc", "traits": {"who": "user"}}),
        )
        .expect(200);
    client
        .post(
            "/v1/identify",
            &json!({"anonymousId": "abc", "traits": {"who": "anonymous"}}),
        )
        .expect(200);
    assert_eq!(people(&app), 2);
    assert!(!history(&app, "abc").contains("by anonymous"));
    let person = app.admin().get("/v1/admin/users/abc").expect(200);
    assert_eq!(person["traits"]["who"], "user", "{person}");
}

#[test]
fn alias_links_both_ways_round() {
    let app = TestApp::start();
    let client = app.client();
    for (new, previous) in [("new-1", "old-1"), ("new-2", "old-2")] {
        track(
            &client,
            json!({"userId": new, "event": format!("by {new}")}),
        );
        track(
            &client,
            json!({"userId": previous, "event": format!("by {previous}")}),
        );
    }
    assert_eq!(people(&app), 4);
    client
        .post(
            "/v1/alias",
            &json!({"userId": "new-1", "previousId": "old-1"}),
        )
        .expect(200);
    client
        .post(
            "/v1/alias",
            &json!({"userId": "old-2", "previousId": "new-2"}),
        )
        .expect(200);
    assert_eq!(people(&app), 2);
    for pair in [["new-1", "old-1"], ["new-2", "old-2"]] {
        for name in pair {
            let seen = history(&app, name);
            for other in pair {
                assert!(seen.contains(&format!("by {other}")), "{name}: {seen:?}");
            }
        }
    }
    // Linking again, and linking a person with itself, changes nothing.
    for (user, previous) in [("new-1", "old-1"), ("new-1", "new-1")] {
        client
            .post(
                "/v1/alias",
                &json!({"userId": user, "previousId": previous}),
            )
            .expect(200);
    }
    assert_eq!(people(&app), 2);
    // To somebody never seen: one person with two names.
    client
        .post(
            "/v1/alias",
            &json!({"userId": "fresh", "previousId": "fresher"}),
        )
        .expect(200);
    assert_eq!(people(&app), 3);
    track(
        &client,
        json!({"userId": "fresher", "event": "through the other name"}),
    );
    assert!(history(&app, "fresh").contains("through the other name"));
}

#[test]
fn two_known_users_are_never_merged_by_a_shared_device() {
    let app = TestApp::start();
    let client = app.client();
    let identify = |user: &str| {
        let body =
            json!({"userId": user, "anonymousId": "family-tablet", "traits": {"name": user}});
        client.post("/v1/identify", &body).expect(200);
    };
    identify("ada");
    identify("bob");
    track(
        &client,
        json!({"userId": "ada", "anonymousId": "family-tablet", "event": "by ada"}),
    );
    track(
        &client,
        json!({"userId": "bob", "anonymousId": "family-tablet", "event": "by bob"}),
    );
    identify("ada");
    assert_eq!(people(&app), 2);
    for (name, other) in [("ada", "bob"), ("bob", "ada")] {
        let person = app
            .admin()
            .get(&format!("/v1/admin/users/{name}"))
            .expect(200);
        assert_eq!(person["traits"]["name"], name, "{person}");
        let seen = history(&app, name);
        assert!(seen.contains(&format!("by {name}")), "{seen:?}");
        assert!(!seen.contains(&format!("by {other}")), "{seen:?}");
    }
    // Said explicitly, they are one.
    client
        .post("/v1/alias", &json!({"userId": "ada", "previousId": "bob"}))
        .expect(200);
    assert_eq!(people(&app), 1);
    assert!(history(&app, "bob").contains("by ada"));
}

#[test]
fn traits_are_merged_shallowly_and_nulls_are_kept() {
    let app = TestApp::start();
    let admin = app.admin();
    let identify = |traits: Value| {
        let body = json!({"user_id": "u", "traits": traits});
        admin.post("/v1/identify", &body).expect(200)["user"].clone()
    };
    identify(json!({"a": 1, "deep": {"x": 1, "y": 2}, "gone": true}));
    let merged = identify(json!({"b": 2, "deep": {"z": 3}, "gone": null}));
    assert_eq!(
        merged,
        json!({"a": 1, "b": 2, "deep": {"z": 3}, "gone": null})
    );
    // A client key reads back only what it sent.
    let body = json!({"user_id": "u", "traits": {"c": 3}});
    let answer = app.client().post("/v1/identify", &body).expect(200);
    assert_eq!(answer["user"], json!({"c": 3}));
    let person = admin.get("/v1/admin/users/u").expect(200);
    assert_eq!(
        (
            &person["traits"]["a"],
            &person["traits"]["c"],
            &person["traits"]["gone"]
        ),
        (&json!(1), &json!(3), &json!(null))
    );
    // Traits in the context of an identify are traits; in a track's they are not.
    let body = json!({"userId": "u", "context": {"traits": {"from": "context"}}});
    app.client().post("/v1/identify", &body).expect(200);
    let body = json!({"userId": "u", "event": "e", "context": {"traits": {"a": "stale"}}});
    app.client().post("/v1/track", &body).expect(200);
    let person = admin.get("/v1/admin/users/u").expect(200);
    assert_eq!(
        (&person["traits"]["a"], &person["traits"]["from"]),
        (&json!(1), &json!("context"))
    );
}

#[test]
fn traits_have_a_limit_and_what_is_over_it_changes_nothing() {
    let app = TestApp::start();
    let admin = app.admin();
    let filler = "x".repeat(100 * 1024);
    for name in ["a", "b"] {
        let mut traits = json!({});
        traits[name] = filler.clone().into();
        let body = json!({"user_id": "u", "traits": traits});
        admin.post("/v1/identify", &body).expect(200);
    }
    let body = json!({"user_id": "u", "traits": {"c": filler, "d": 1}});
    let answer = admin.post("/v1/identify", &body);
    assert!(matches!(answer.status, 400 | 413), "{}", answer.text());
    assert_eq!(
        answer.json()["code"],
        "traits_too_large",
        "{}",
        answer.text()
    );
    let answer = answer.json();
    for said in [&answer["message"], &answer["details"][0]["msg"]] {
        assert!(said.as_str().unwrap().contains("262144 bytes"), "{answer}");
    }
    let person = admin.get("/v1/admin/users/u").expect(200);
    assert!(
        person["traits"].get("d").is_none(),
        "half an identify is none"
    );
    let refused = sql::rows(&mut app.sql(), "SELECT code FROM rejected_events");
    assert_eq!(refused.len(), 1, "{refused:?}");
}

/// They stay two, so it is no matter what both have together.
#[test]
fn users_with_much_may_share_a_device() {
    let app = TestApp::start();
    let client = app.client();
    let identify = |body: Value| client.post("/v1/identify", &body).expect(200);
    let much = |name: &str| json!({name: "x".repeat(200_000)});
    identify(json!({"userId": "one", "traits": much("one")}));
    identify(json!({"userId": "two", "anonymousId": "device", "traits": much("two")}));
    for user in ["one", "new"] {
        let traits = if user == "new" {
            much("new")
        } else {
            json!({"n": 1})
        };
        let body = json!({"userId": user, "anonymousId": "device", "traits": traits});
        let answer = identify(body);
        assert!(
            answer.get("rejected").is_none_or(|it| *it == json!([])),
            "{answer}"
        );
    }
    assert_eq!(people(&app), 3);
    let user = app.admin().get("/v1/admin/users/one").expect(200);
    assert_eq!(user["traits"]["n"], 1);
    // Whoever becomes one with somebody who has much is still refused.
    let alias = json!({"userId": "one", "previousId": "two"});
    let answer = client.post("/v1/alias", &alias).expect(200);
    assert_eq!(
        answer["rejected"][0]["code"], "traits_too_large",
        "{answer}"
    );
}

#[test]
fn identifies_from_sixteen_connections_lose_no_trait() {
    const THREADS: usize = 16;
    const ROUNDS: usize = 10;
    let app = TestApp::start();
    let start = Barrier::new(THREADS);
    thread::scope(|scope| {
        for number in 0..THREADS {
            let (client, start) = (app.client(), &start);
            scope.spawn(move || {
                start.wait();
                for round in 0..ROUNDS {
                    let mut traits = json!({});
                    traits[format!("t-{number}-{round}")] = round.into();
                    // Half of them know the person by another name.
                    let mut body = json!({"userId": "shared", "traits": traits});
                    if number % 2 == 0 {
                        body["anonymousId"] = "shared-device".into();
                    }
                    client.post("/v1/identify", &body).expect(200);
                }
            });
        }
    });
    assert_eq!(people(&app), 1);
    let person = app.admin().get("/v1/admin/users/shared").expect(200);
    for number in 0..THREADS {
        for round in 0..ROUNDS {
            assert_eq!(
                person["traits"][format!("t-{number}-{round}")],
                round,
                "{number} {round}"
            );
        }
    }
}

#[test]
fn a_race_to_link_many_names_ends_with_one_person() {
    const NAMES: usize = 12;
    let app = TestApp::start();
    for round in 0..3 {
        let name = |number: usize| format!("r{round}-n{number}");
        for number in 0..NAMES {
            track(
                &app.client(),
                json!({"userId": name(number), "event": name(number)}),
            );
        }
        let before = people(&app);
        let start = Barrier::new(NAMES);
        thread::scope(|scope| {
            for number in 0..NAMES {
                let (client, start) = (app.client(), &start);
                // A ring, so that every merge meets another one.
                let body =
                    json!({"userId": name(number), "previousId": name((number + 1) % NAMES)});
                scope.spawn(move || {
                    start.wait();
                    client.post("/v1/alias", &body).expect(200);
                });
            }
        });
        assert_eq!(before - people(&app), NAMES as i64 - 1, "round {round}");
        for number in [0, NAMES / 2, NAMES - 1] {
            let seen = history(&app, &name(number));
            for other in 0..NAMES {
                assert!(seen.contains(&name(other)), "{number}: {seen:?}");
            }
        }
    }
}

/// One that changes nothing is stored like any other, alone and in a list.
#[test]
fn every_alias_keeps_what_it_named() {
    let app = TestApp::start();
    let alias = json!({"type": "alias", "userId": "u", "previousId": "v"});
    for _ in 0..3 {
        app.client().post("/v1/alias", &alias).expect(200);
    }
    let list = json!({"batch": [alias, {"type": "alias", "userId": "u", "previousId": "u"}]});
    app.client().post("/v1/batch", &list).expect(200);
    let kept = sql::texts(
        &mut app.sql(),
        "SELECT coalesce(properties->>'previousId', 'nothing') AS value FROM events \
         WHERE kind = 5 ORDER BY received_at, id",
    );
    assert_eq!(kept, ["v", "v", "v", "v", "u"]);
}

/// What an alias means does not depend on whether it comes in a list.
#[test]
fn an_alias_means_the_same_alone_and_in_a_list() {
    for is_list in [false, true] {
        let app = TestApp::start();
        let send = |calls: Vec<Value>| {
            if is_list {
                app.client()
                    .post("/v1/batch", &json!({"batch": calls}))
                    .expect(200);
                return;
            }
            for call in calls {
                let path = format!("/v1/{}", call["type"].as_str().unwrap());
                app.client().post(&path, &call).expect(200);
            }
        };
        for anonymous in ["x", "z"] {
            send(vec![
                json!({"type": "track", "anonymousId": anonymous, "event": "seen"}),
            ]);
        }
        // A user that an event before it names goes before an anonymous one of that name.
        send(vec![
            json!({"type": "track", "userId": "x", "event": "bought"}),
            json!({"type": "alias", "userId": "y", "previousId": "x"}),
        ]);
        assert!(history(&app, "y").contains("bought"), "{is_list}");
        assert!(!history(&app, "y").contains("seen"), "{is_list}");
        // An alias of one's own name means the anonymous one, if there is no such user.
        send(vec![
            json!({"type": "alias", "userId": "z", "previousId": "z"}),
        ]);
        assert!(history(&app, "z").contains("seen"), "{is_list}");
    }
}
