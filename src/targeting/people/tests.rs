#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]
use chrono::DateTime;

use super::*;
use crate::targeting::other_nodes::LEASE;

fn now() -> Range<Instant> {
    let now = Instant::now();
    now..now
}

fn caches() -> People {
    let caches = People::new(1 << 20);
    caches.counted(false, now());
    caches
}

fn state(plan: &str) -> Arc<PersonState> {
    Arc::new(PersonState {
        id: PersonId(7),
        home: 0,
        user_id: None,
        traits: Arc::from(serde_json::json!({ "plan": plan }).to_string()),
        created_at: DateTime::UNIX_EPOCH,
        last_seen: DateTime::UNIX_EPOCH.into(),
    })
}

fn plan(caches: &People) -> Option<String> {
    let state = caches.state(PersonId(7))?;
    Some(state.traits_object()["plan"].as_str()?.to_owned())
}

#[test]
fn nothing_is_remembered_before_the_other_nodes_were_counted() {
    let caches = People::new(1 << 20);
    caches.remember_loaded(caches.observe(PersonId(7)), &state("old"));
    assert_eq!(plan(&caches), None);
}

#[test]
fn what_was_loaded_while_another_node_worked_is_not_remembered_after_it_left() {
    let caches = caches();
    caches.counted(true, now());
    let observed = caches.observe(PersonId(7));
    caches.counted(false, now());
    caches.remember_loaded(observed, &state("old"));
    assert_eq!(plan(&caches), None);
}

/// As when whoever counts them waits for a lock: one may have come, changed somebody and left.
#[test]
fn without_a_count_of_the_other_nodes_nothing_is_trusted_for_long() {
    let mut caches = caches();
    caches.remember_loaded(caches.observe(PersonId(7)), &state("old"));
    assert_eq!(plan(&caches).as_deref(), Some("old"));
    caches.others.grow_older(2 * LEASE);
    assert!(caches.others.is_cut_off());
    assert_eq!(plan(&caches), None);
    caches.counted(false, now());
    assert!(!caches.others.is_cut_off());
    assert_eq!(plan(&caches), None);
}

/// What counts is when the nodes were looked at, which may be as late as the answer.
#[test]
fn after_a_count_that_took_long_nothing_is_trusted() {
    let caches = caches();
    let began = Instant::now();
    caches.remember_loaded(caches.observe(PersonId(7)), &state("old"));
    caches.counted(false, began..began + LEASE / 2);
    assert_eq!(plan(&caches).as_deref(), Some("old"));
    caches.counted(false, began + LEASE / 2..began + 2 * LEASE);
    assert_eq!(plan(&caches), None);
}

/// The protocol rests on these two of the cache's promises.
#[test]
fn what_is_removed_or_replaced_before_an_insertion_takes_effect_wins() {
    let caches = caches();
    let person = PersonId(7);
    let removed = |remove: &dyn Fn()| {
        let decided = caches
            .states
            .entry(&person, None, |_, _| EntryAction::Retain(()));
        let EntryResult::Vacant(place) = decided else {
            return false;
        };
        remove();
        place.insert(state("old")).is_err()
    };
    assert!(removed(&|| drop(caches.states.remove(&person))));
    assert!(removed(&|| caches.states.clear()));
    assert_eq!(plan(&caches), None);
    assert!(removed(&|| caches.states.insert(person, state("new"))));
    assert_eq!(plan(&caches).as_deref(), Some("new"));
}

type Changes<'a> = &'a dyn Fn(&mut People);

/// Whom `ada` names, as far as that is remembered.
fn found(caches: &People) -> Option<Remembered> {
    let ada = Identity::user("ada").ok()?;
    let epoch = caches.epoch();
    caches.remembered(epoch, caches.address(ProjectId(1), &ada)?)
}

#[test]
fn whom_an_identity_named_holds_until_somebody_may_have_changed_that() {
    let remembering = || {
        let caches = caches();
        let (ada, address) = (
            Identity::user("ada"),
            Address {
                person: PersonId(7),
                home: 0,
            },
        );
        caches.remember_address(caches.epoch(), ProjectId(1), &ada.unwrap(), address);
        caches.remember_loaded(caches.observe(PersonId(7)), &state("old"));
        caches
    };
    let seven = [PersonId(7)];
    // One that has no end is under way for good.
    let changes: [(&str, Changes<'_>); 8] = [
        ("somebody is about to change them", &|caches| {
            let _under_way = caches.begin_change(seven);
        }),
        ("somebody has changed them", &|caches| {
            let new = state("new");
            caches.begin_change(seven).publish(caches, |_| Some(&new));
        }),
        ("the outcome of a change is unknown", &|caches| {
            caches.begin_change(seven).forget(caches);
        }),
        ("it has settled", &|caches| {
            caches.begin_change(seven).abandon(caches)
        }),
        ("people were merged", &|caches| {
            caches.merged(caches.epoch(), Vec::new());
        }),
        ("another node works", &|caches| caches.counted(true, now())),
        ("another node came and went", &|caches| {
            caches.counted(true, now());
            caches.counted(false, now());
        }),
        ("nobody counts the nodes", &|caches| {
            caches.others.grow_older(2 * LEASE);
        }),
    ];
    for (what, change) in changes {
        let mut caches = remembering();
        let before = found(&caches).unwrap();
        assert!(caches.still_holds(&before), "{what}");
        change(&mut caches);
        assert!(!caches.still_holds(&before), "{what}");
    }
    // What the cache merely has no room for is as true as before.
    let caches = remembering();
    let before = found(&caches).unwrap();
    caches.states.clear();
    assert!(caches.still_holds(&before));
    // While somebody is about to change them nobody is found, even if they still are remembered.
    let caches = remembering();
    let change = caches.begin_change(seven);
    assert!(plan(&caches).is_some() && found(&caches).is_none());
    // Nor may anybody be found as they were between the change's end and the cache's.
    let new = state("new");
    change.publish(&caches, |_| {
        assert!(caches.observe(PersonId(7)).0.is_none());
        Some(&new)
    });
    let after = found(&caches).unwrap();
    assert!(Arc::ptr_eq(after.state(), &new) && caches.still_holds(&after));
}

#[test]
fn an_unknown_outcome_keeps_people_out_until_it_has_settled() {
    let caches = caches();
    caches.remember_loaded(caches.observe(PersonId(7)), &state("old"));
    let change = caches.begin_change([PersonId(7)]);
    change.forget(&caches);
    assert_eq!(plan(&caches), None);
    caches.remember_loaded(caches.observe(PersonId(7)), &state("old"));
    assert_eq!(plan(&caches), None);
    change.abandon(&caches);
    caches.remember_loaded(caches.observe(PersonId(7)), &state("new"));
    assert_eq!(plan(&caches).as_deref(), Some("new"));
}
