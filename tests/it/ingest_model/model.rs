//! The twin, and what happens to it: calls, the end of caches, days that pass.

use std::collections::{HashMap, HashSet};

use beckon::model::{Call, Dialect, Event, EventName, Identity, IdentityKind, MessageId, RawJson};
use chrono::{DateTime, Utc};
use proptest::prelude::*;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

/// How long the projects of these tests keep their events, in days.
pub const RETENTION_DAYS: u32 = 3;
/// How long a message id is remembered at least, in days.
pub const WINDOW_DAYS: u32 = 7;

/// One call, over a handful of identities so that everything meets everything.
#[derive(Debug, Clone)]
pub enum Op {
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
pub struct Sent {
    pub op: Op,
    pub message: Option<u8>,
}

#[derive(Debug, Clone)]
pub enum Step {
    Request(Vec<Sent>),
    /// What is remembered of people in memory is forgotten.
    Forget,
    /// So many days pass, and retention runs at the end of them.
    Pass(u32),
}

pub fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        14 => prop::collection::vec(sent(), 1..7).prop_map(Step::Request),
        3 => Just(Step::Forget),
        3 => prop::sample::select(vec![2, 7, 100]).prop_map(Step::Pass),
    ];
    prop::collection::vec(step, 1..16)
}

pub fn user(number: u8) -> Identity {
    Identity::user(&format!("u{number}")).unwrap()
}

pub fn anonymous(number: u8) -> Identity {
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
    (op, prop::option::weighted(0.6, 0_u8..10)).prop_map(|(op, message)| Sent { op, message })
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

pub fn event(sent: &Sent, at: DateTime<Utc>) -> Event {
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
pub struct Model {
    pub people: Vec<ModelPerson>,
    pub identities: HashMap<Identity, usize>,
    /// Under which event a message id is known, in the current bucket and the one before.
    messages: [HashMap<u8, usize>; 2],
    /// How many days ago the buckets changed places.
    bucket_days: u32,
    forgotten: HashSet<u8>,
    /// How many events were stored under a message id that had been forgotten.
    pub stored_again: u32,
    /// All events, in order.
    pub events: Vec<ModelEvent>,
}

#[derive(Debug)]
pub struct ModelEvent {
    /// Whom it is about.
    pub person: usize,
    age_days: u32,
}

impl ModelEvent {
    /// Whether retention has left it where it was.
    pub fn is_kept(&self) -> bool {
        self.age_days <= RETENTION_DAYS
    }
}

#[derive(Debug, Default)]
pub struct ModelPerson {
    pub traits: Map<String, Value>,
    merged_into: Option<usize>,
}

impl Model {
    /// Days pass. Once the current bucket is a window old, the other is emptied and takes its place.
    pub fn pass(&mut self, days: u32) {
        for event in &mut self.events {
            event.age_days += days;
        }
        self.bucket_days += days;
        if self.bucket_days >= WINDOW_DAYS {
            let [current, older] = std::mem::take(&mut self.messages);
            self.forgotten.extend(older.keys());
            self.messages = [HashMap::new(), current];
            self.bucket_days = 0;
        }
    }

    pub fn find(&self, identity: &Identity) -> Option<usize> {
        self.identities
            .get(identity)
            .map(|&person| self.survivor(person))
    }

    pub fn survivor(&self, mut person: usize) -> usize {
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
    pub fn apply(&mut self, sent: &Sent) -> (usize, bool, Map<String, Value>) {
        let own = match &sent.op {
            Op::Track(who) => who.clone(),
            Op::Identify { user: number, .. } | Op::Alias { user: number, .. } => user(*number),
            Op::IdentifyAnonymous {
                anonymous: number, ..
            } => anonymous(*number),
        };
        let known = |id| self.messages.iter().find_map(|bucket| bucket.get(id));
        if let Some(&first) = sent.message.as_ref().and_then(known) {
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
        self.events.push(ModelEvent {
            person,
            age_days: 0,
        });
        if let Some(id) = sent.message {
            self.messages[0].insert(id, place);
            self.stored_again += u32::from(self.forgotten.remove(&id));
        }
        (place, false, self.people[person].traits.clone())
    }
}
