//! Ingest against its slow, obvious twin: a list of people and a map of message ids, changed one
//! event at a time.

use std::collections::HashMap;
use std::sync::Arc;

use beckon::clock::Clock;
use beckon::hub::Hub;
use beckon::ingest::decode::Item;
use beckon::ingest::{Ingest, IngestOptions, Outcome, Submission};
use beckon::model::{
    Call, Dialect, Event, EventName, Identity, IdentityKind, MessageId, ProjectId, RawJson,
    parse_object,
};
use beckon::store::{Store, StoreOptions};
use beckon::targeting::{Targeting, TargetingOptions};
use chrono::{DateTime, TimeDelta, Utc};
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Jsonb, SmallInt, Text};
use proptest::prelude::*;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::support::postgres::{TestDatabase, database};

/// One call, over a handful of identities so that everything meets everything.
#[derive(Debug, Clone)]
enum Op {
    Track(Identity),
    Identify {
        user: u8,
        anonymous: Option<u8>,
        traits: Vec<(u8, u8)>,
    },
    IdentifyAnonymous {
        anonymous: u8,
        traits: Vec<(u8, u8)>,
    },
    Alias {
        user: u8,
        previous: Identity,
    },
}

#[derive(Debug, Clone)]
struct Sent {
    op: Op,
    message: Option<u8>,
}

fn user(number: u8) -> Identity {
    Identity::user(&format!("u{number}")).unwrap()
}

fn anonymous(number: u8) -> Identity {
    Identity::anonymous(&format!("a{number}")).unwrap()
}

fn identity() -> impl Strategy<Value = Identity> {
    prop_oneof![(0_u8..4).prop_map(user), (0_u8..5).prop_map(anonymous)]
}

fn sent() -> impl Strategy<Value = Sent> {
    let traits = prop::collection::vec((0_u8..4, 0_u8..4), 0..3);
    let op = prop_oneof![
        4 => identity().prop_map(Op::Track),
        4 => (0_u8..4, prop::option::of(0_u8..5), traits.clone())
            .prop_map(|(user, anonymous, traits)| Op::Identify { user, anonymous, traits }),
        1 => (0_u8..5, traits)
            .prop_map(|(anonymous, traits)| Op::IdentifyAnonymous { anonymous, traits }),
        1 => (0_u8..4, identity()).prop_map(|(user, previous)| Op::Alias { user, previous }),
    ];
    (op, prop::option::of(0_u8..20)).prop_map(|(op, message)| Sent { op, message })
}

fn raw(value: &Value) -> RawJson {
    RawJson::from_checked(RawValue::from_string(value.to_string()).unwrap())
}

fn traits_json(traits: &[(u8, u8)]) -> Map<String, Value> {
    traits
        .iter()
        .map(|(name, value)| (format!("t{name}"), json!(value)))
        .collect()
}

fn event(sent: &Sent, at: DateTime<Utc>) -> Event {
    let traits = |traits: &[(u8, u8)]| Some(raw(&Value::Object(traits_json(traits))));
    let (call, user, anonymous) = match &sent.op {
        Op::Track(who) => {
            let call = Call::Track {
                name: EventName::parse("seen").unwrap(),
                properties: None,
            };
            match who.kind() {
                IdentityKind::User => (call, Some(who.clone()), None),
                IdentityKind::Anonymous => (call, None, Some(who.clone())),
            }
        }
        Op::Identify {
            user: number,
            anonymous: other,
            traits: list,
        } => (
            Call::Identify {
                traits: traits(list),
            },
            Some(user(*number)),
            other.map(anonymous),
        ),
        Op::IdentifyAnonymous {
            anonymous: number,
            traits: list,
        } => (
            Call::Identify {
                traits: traits(list),
            },
            None,
            Some(anonymous(*number)),
        ),
        Op::Alias {
            user: number,
            previous,
        } => (
            Call::Alias {
                previous: previous.clone(),
            },
            Some(user(*number)),
            None,
        ),
    };
    Event {
        dialect: Dialect::Segment,
        call,
        user,
        anonymous,
        message_id: sent
            .message
            .map(|id| MessageId::parse(&format!("m{id}")).unwrap()),
        timestamp: at,
        received_at: at,
        context: None,
        size_bytes: 100,
        replay_of: None,
    }
}

/// The twin: people in the order of their birth; a merged person points at the survivor.
#[derive(Debug, Default)]
struct Model {
    people: Vec<ModelPerson>,
    identities: HashMap<Identity, usize>,
    messages: HashMap<u8, usize>,
    /// Whom each stored event is about, in order.
    events: Vec<usize>,
}

#[derive(Debug, Default)]
struct ModelPerson {
    traits: Map<String, Value>,
    merged_into: Option<usize>,
}

impl Model {
    fn find(&self, identity: &Identity) -> Option<usize> {
        self.identities
            .get(identity)
            .map(|&person| self.survivor(person))
    }

    fn survivor(&self, mut person: usize) -> usize {
        while let Some(into) = self.people[person].merged_into {
            person = into;
        }
        person
    }

    fn find_or_create(&mut self, identity: &Identity) -> usize {
        self.find(identity).unwrap_or_else(|| {
            self.people.push(ModelPerson::default());
            self.identities
                .insert(identity.clone(), self.people.len() - 1);
            self.people.len() - 1
        })
    }

    fn has_user(&self, person: usize) -> bool {
        self.identities.iter().any(|(identity, &owner)| {
            identity.kind() == IdentityKind::User && self.survivor(owner) == person
        })
    }

    fn link(&mut self, own: &Identity, linked: &Identity, is_alias: bool) -> usize {
        match (self.find(own), self.find(linked)) {
            (Some(one), Some(other)) if one == other => one,
            (Some(one), Some(other)) => {
                if !is_alias && self.has_user(one) && self.has_user(other) {
                    return one;
                }
                let mut traits = self.people[other].traits.clone();
                traits.extend(self.people[one].traits.clone());
                let (survivor, loser) = (one.min(other), one.max(other));
                self.people[survivor].traits = traits;
                self.people[loser].merged_into = Some(survivor);
                survivor
            }
            (Some(one), None) => {
                self.identities.insert(linked.clone(), one);
                one
            }
            (None, Some(other)) if is_alias || !self.has_user(other) => {
                self.identities.insert(own.clone(), other);
                other
            }
            (None, Some(_)) => self.find_or_create(own),
            (None, None) => {
                let person = self.find_or_create(own);
                self.identities.insert(linked.clone(), person);
                person
            }
        }
    }

    /// Applies one event; returns the place of its first storing, whether it is a duplicate, and
    /// the person's traits afterwards.
    fn apply(&mut self, sent: &Sent) -> (usize, bool, Map<String, Value>) {
        let own = match &sent.op {
            Op::Track(who) => who.clone(),
            Op::Identify { user: number, .. } | Op::Alias { user: number, .. } => user(*number),
            Op::IdentifyAnonymous {
                anonymous: number, ..
            } => anonymous(*number),
        };
        if let Some(&first) = sent.message.as_ref().and_then(|id| self.messages.get(id)) {
            let traits = self
                .find(&own)
                .map(|person| self.people[person].traits.clone());
            return (first, true, traits.unwrap_or_default());
        }
        let person = match &sent.op {
            Op::Identify {
                anonymous: Some(number),
                ..
            } => self.link(&own, &anonymous(*number), false),
            Op::Alias { previous, .. } if *previous != own => {
                let twin = Identity::anonymous(previous.value()).unwrap();
                assert!(self.find(&twin).is_none() || previous.kind() == IdentityKind::Anonymous);
                self.link(&own, previous, true)
            }
            _ => self.find_or_create(&own),
        };
        if let Op::Identify { traits, .. } | Op::IdentifyAnonymous { traits, .. } = &sent.op {
            self.people[person].traits.extend(traits_json(traits));
        }
        let place = self.events.len();
        self.events.push(person);
        if let Some(id) = sent.message {
            self.messages.insert(id, place);
        }
        (place, false, self.people[person].traits.clone())
    }
}

struct Rig {
    database: TestDatabase,
    targeting: Targeting,
    ingest: Ingest,
    _hub: Hub,
}

fn rig(cache_bytes: u64, shards: usize) -> Rig {
    let database = database();
    let clock = Clock::system();
    let store = Store::new(StoreOptions {
        url: database.url.clone(),
        pool_size: 4,
        deadline: std::time::Duration::from_secs(20),
    });
    let options = TargetingOptions {
        people_cache_bytes: cache_bytes,
        ..Default::default()
    };
    let targeting = Targeting::new(store, clock, options);
    let hub = targeting.start().unwrap();
    let options = IngestOptions {
        url: database.url.clone(),
        shards,
        deadline: std::time::Duration::from_secs(20),
        ..Default::default()
    };
    let ingest = Ingest::start(targeting.clone(), options).unwrap();
    let waited = std::time::Instant::now();
    while !targeting.is_ready() {
        assert!(
            waited.elapsed().as_secs() < 20,
            "targeting did not become ready"
        );
        crate::support::pause(std::time::Duration::from_millis(10));
    }
    Rig {
        database,
        targeting,
        ingest,
        _hub: hub,
    }
}

fn new_project(connection: &mut PgConnection) -> ProjectId {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = BigInt)]
        id: i64,
    }
    let row: Row = sql_query(
        "WITH p AS (INSERT INTO projects (name) VALUES (gen_random_uuid()::text) RETURNING id) \
         INSERT INTO project_revisions (project_id) SELECT id FROM p RETURNING project_id AS id",
    )
    .get_result(connection)
    .unwrap();
    ProjectId(row.id)
}

#[derive(QueryableByName, Debug)]
struct IdentityRow {
    #[diesel(sql_type = SmallInt)]
    kind: i16,
    #[diesel(sql_type = Text)]
    value: String,
    #[diesel(sql_type = BigInt)]
    person_id: i64,
    #[diesel(sql_type = Jsonb)]
    traits: Value,
}

fn identity_rows(connection: &mut PgConnection, project: ProjectId) -> Vec<IdentityRow> {
    sql_query(
        "SELECT i.kind, i.value, i.person_id, p.traits FROM identities i \
         JOIN persons p ON p.id = i.person_id AND p.merged_into IS NULL \
         WHERE i.project_id = $1",
    )
    .bind::<BigInt, _>(project.0)
    .load(connection)
    .unwrap()
}

#[derive(QueryableByName)]
struct EventRow {
    #[diesel(sql_type = diesel::sql_types::Uuid)]
    id: uuid::Uuid,
    #[diesel(sql_type = BigInt)]
    person: i64,
}

fn check(rig: &Rig, runtime: &tokio::runtime::Runtime, requests: &[Vec<Sent>]) {
    let mut connection = rig.database.connect();
    let project = new_project(&mut connection);
    let mut model = Model::default();
    let mut ids = Vec::new();
    let mut at = DateTime::parse_from_rfc3339("2026-01-01T00:00:00Z")
        .unwrap()
        .to_utc();
    for (number, request) in requests.iter().enumerate() {
        if number % 5 == 4 {
            rig.targeting.people().forget_all();
        }
        let items = request
            .iter()
            .map(|sent| {
                at += TimeDelta::seconds(97);
                Item::Event(Box::new(event(sent, at)))
            })
            .collect();
        let submission = Submission {
            project,
            items,
            received: request.len(),
            wants_matches: true,
        };
        let outcomes = runtime.block_on(rig.ingest.submit(submission)).unwrap();
        assert_eq!(outcomes.len(), request.len());
        for (sent, outcome) in request.iter().zip(outcomes) {
            let (place, duplicate, traits) = model.apply(sent);
            let Outcome::Stored(stored) = outcome else {
                panic!("{sent:?} was not stored")
            };
            assert_eq!(stored.duplicate, duplicate, "{sent:?}");
            if duplicate {
                assert_eq!(stored.id, ids[place], "{sent:?}");
            } else {
                assert_eq!(place, ids.len());
                ids.push(stored.id);
                assert_eq!(parse_object(&stored.traits), traits, "{sent:?}");
            }
        }
    }
    let rows = identity_rows(&mut connection, project);
    assert_eq!(rows.len(), model.identities.len(), "{rows:?} {model:?}");
    let mut number_of: HashMap<usize, i64> = HashMap::new();
    for row in &rows {
        let kind = IdentityKind::from_i16(row.kind).unwrap();
        let identity = Identity::parse(kind, &row.value).unwrap();
        let person = model.find(&identity).unwrap();
        assert_eq!(
            *number_of.entry(person).or_insert(row.person_id),
            row.person_id
        );
        assert_eq!(
            row.traits,
            Value::Object(model.people[person].traits.clone())
        );
        let remembered = runtime
            .block_on(rig.targeting.person(project, &identity))
            .unwrap();
        assert_eq!(
            Value::Object(remembered.unwrap().traits_object()),
            row.traits
        );
    }
    let events: Vec<EventRow> = sql_query(
        "SELECT e.id, coalesce(p.merged_into, p.id) AS person FROM events e \
         JOIN persons p ON p.id = e.person_id WHERE e.project_id = $1",
    )
    .bind::<BigInt, _>(project.0)
    .load(&mut connection)
    .unwrap();
    assert_eq!(events.len(), model.events.len());
    for row in events {
        let place = ids.iter().position(|id| id.0 == row.id).unwrap();
        let person = model.survivor(model.events[place]);
        assert_eq!(number_of.get(&person), Some(&row.person));
    }
}

/// How many random histories each variant runs; the long form is for soaks.
fn cases() -> u32 {
    if crate::support::is_soak() { 2_000 } else { 60 }
}

fn run_histories(cache_bytes: u64, shards: usize) {
    let rig = rig(cache_bytes, shards);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let requests = prop::collection::vec(prop::collection::vec(sent(), 1..7), 1..14);
    let config = ProptestConfig {
        cases: cases(),
        failure_persistence: None,
        ..Default::default()
    };
    proptest::test_runner::TestRunner::new(config)
        .run(&requests, |requests| {
            check(&rig, &runtime, &requests);
            Ok(())
        })
        .unwrap();
    assert!(rig.ingest.close(std::time::Duration::from_secs(10)));
}

#[test]
fn random_histories_equal_the_model() {
    run_histories(64 << 20, 3);
}

#[test]
fn random_histories_equal_the_model_without_caches() {
    run_histories(0, 2);
}

/// Many callers change the same few people at once. Whatever order it came to, what is remembered
/// afterwards is what the database says, and each message id was stored once.
#[test]
fn concurrent_changes_leave_no_stale_state() {
    let rig = Arc::new(rig(64 << 20, 4));
    let project = new_project(&mut rig.database.connect());
    let callers: Vec<_> = (0_u8..8)
        .map(|caller| {
            let rig = Arc::clone(&rig);
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap();
                for round in 0_u8..40 {
                    let number = (caller ^ round) % 3;
                    let op = match (caller.wrapping_add(round)) % 5 {
                        0 => Op::Track(anonymous(number)),
                        1 => Op::Alias {
                            user: number,
                            previous: anonymous(number),
                        },
                        2 => Op::IdentifyAnonymous {
                            anonymous: number,
                            traits: vec![(caller, round)],
                        },
                        _ => Op::Identify {
                            user: number,
                            anonymous: Some(round % 3),
                            traits: vec![(caller, round)],
                        },
                    };
                    let sent = Sent {
                        op,
                        message: Some(round),
                    };
                    let now = crate::support::now();
                    let items = vec![Item::Event(Box::new(event(&sent, now)))];
                    let submission = Submission {
                        project,
                        items,
                        received: 1,
                        wants_matches: true,
                    };
                    runtime.block_on(rig.ingest.submit(submission)).unwrap();
                    let who = user(number);
                    runtime
                        .block_on(rig.targeting.person(project, &who))
                        .unwrap();
                }
            })
        })
        .collect();
    for caller in callers {
        caller.join().unwrap();
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut connection = rig.database.connect();
    let rows = identity_rows(&mut connection, project);
    assert!(!rows.is_empty());
    for row in rows {
        let kind = IdentityKind::from_i16(row.kind).unwrap();
        let identity = Identity::parse(kind, &row.value).unwrap();
        let remembered = runtime
            .block_on(rig.targeting.person(project, &identity))
            .unwrap();
        let remembered = remembered.unwrap();
        assert_eq!(
            Value::Object(remembered.traits_object()),
            row.traits,
            "{identity:?}"
        );
        assert_eq!(remembered.id.0, row.person_id, "{identity:?}");
    }
    #[derive(QueryableByName)]
    struct Count {
        #[diesel(sql_type = BigInt)]
        count: i64,
    }
    let stored: Count = sql_query("SELECT count(*) FROM events WHERE project_id = $1")
        .bind::<BigInt, _>(project.0)
        .get_result(&mut connection)
        .unwrap();
    assert_eq!(stored.count, 40);
}
