//! What the clients of a load send, and what they make of the answers.

use std::collections::VecDeque;

use serde_json::{Value, json};

/// How many events a batch has; one of them is rejected.
const BATCH_EVENTS: u64 = 20;
/// How many calls later one is repeated, or earlier if there were not as many yet.
const REPEATED_AFTER: usize = 6;
/// What is sent in turns. Clients begin at different places of it.
const TURNS: [Kind; 8] = [
    Kind::Track,
    Kind::Anonymous,
    Kind::Link,
    Kind::Identify,
    Kind::Batch,
    Kind::Repetition,
    Kind::Track,
    Kind::Identify,
];

/// What a call is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// An event of somebody who is known.
    Track,
    /// An event of somebody who is new.
    Anonymous,
    /// A trait that grows.
    Identify,
    /// Events of several people, and one that nobody can store.
    Batch,
    /// Two people who become one.
    Link,
    /// A call that was acknowledged a while ago, once more.
    Repetition,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Track,
        Self::Anonymous,
        Self::Identify,
        Self::Batch,
        Self::Link,
        Self::Repetition,
    ];
}

/// What an acknowledgement promises beside the events.
#[derive(Debug, Clone)]
pub enum Promise {
    /// Nothing more.
    Events,
    /// The user's trait `counter` has this value, or one that was sent later.
    Counter(String, u64),
    /// The anonymous id and the user are one person.
    Link(String, String),
}

/// One call.
#[derive(Debug, Clone)]
pub struct Call {
    /// What it is.
    pub kind: Kind,
    /// Where it goes.
    pub path: &'static str,
    /// Its body.
    pub body: String,
    /// The message ids of its good events.
    pub good: Vec<String>,
    /// The message id and the place of the event that is rejected.
    pub rejected: Option<(String, u64)>,
    /// What its acknowledgement promises.
    pub promise: Promise,
}

/// What an answer told.
#[derive(Debug, Default)]
pub struct Told {
    /// How many events were stored before.
    pub duplicates: u64,
    /// Message ids with the ids of their events.
    pub events: Vec<(String, String)>,
}

impl Call {
    /// Reads an answer with status 200; panics when it is not one to this call.
    pub fn read(&self, answer: &Value) -> Told {
        assert_eq!(answer["ok"], true, "{answer}");
        let told = if self.path.starts_with("/v1/batch") {
            self.read_batch(answer)
        } else {
            assert_eq!(answer.get("rejected"), None, "{answer}");
            let duplicates = u64::from(answer["duplicate"] == true);
            let id = answer["event"]["id"].as_str();
            assert_eq!(id.is_none(), self.path == "/v1/identify", "{answer}");
            let events = id.map(|id| (self.good[0].clone(), id.to_owned()));
            Told {
                duplicates,
                events: events.into_iter().collect(),
            }
        };
        if self.kind == Kind::Repetition {
            assert_eq!(told.duplicates, self.good.len() as u64, "{answer}");
        }
        told
    }

    fn read_batch(&self, answer: &Value) -> Told {
        let duplicates = answer["duplicates"].as_u64().unwrap();
        let settled = answer["accepted"].as_u64().unwrap() + duplicates;
        assert_eq!(settled, self.good.len() as u64, "{answer}");
        let rejected = answer["rejected"].as_array().unwrap();
        let places: Vec<_> = rejected.iter().map(|it| it["index"].as_u64()).collect();
        let place = self.rejected.as_ref().map(|(_, place)| *place);
        assert_eq!(places, [place], "{answer}");
        assert_eq!(rejected[0]["code"], "missing_identity", "{answer}");
        let results = answer["results"].as_array().into_iter().flatten();
        let stored = results.filter_map(|result| result["id"].as_str());
        let events = self.good.iter().cloned().zip(stored.map(str::to_owned));
        let events: Vec<_> = events.collect();
        let asked = self.path.ends_with("matched=true");
        assert_eq!(events.len(), if asked { self.good.len() } else { 0 });
        Told { duplicates, events }
    }
}

/// What one client sends, call after call.
#[derive(Debug)]
pub struct Script {
    prefix: String,
    number: usize,
    /// How many clients share the batches' people.
    clients: usize,
    is_mixed: bool,
    round: u64,
    counter: u64,
    /// Somebody who was seen and is not linked to the user yet.
    anonymous: Option<String>,
    /// The last calls that were acknowledged, the oldest first.
    earlier: VecDeque<Call>,
}

impl Script {
    /// The script of one of so many clients.
    pub fn new(prefix: &str, number: usize, clients: usize, is_mixed: bool) -> Self {
        Self {
            prefix: prefix.to_owned(),
            number,
            clients,
            is_mixed,
            round: 0,
            counter: 0,
            anonymous: None,
            earlier: VecDeque::new(),
        }
    }

    /// The next call.
    pub fn next_call(&mut self) -> Call {
        let round = self.round;
        self.round += 1;
        if !self.is_mixed {
            return self.track(round, &format!("load-{}", self.number));
        }
        let turn = (round as usize + self.number) % TURNS.len();
        let user = self.user(self.number);
        match (TURNS[turn], self.anonymous.take()) {
            (Kind::Anonymous, None) => self.newcomer(round),
            (Kind::Link, Some(anonymous)) => self.link(round, &user, anonymous),
            (other, anonymous) => {
                self.anonymous = anonymous;
                match other {
                    Kind::Identify => self.identify(round, user),
                    Kind::Batch => self.batch(round),
                    Kind::Repetition => match self.earlier.front() {
                        Some(earlier) => repetition(earlier),
                        None => self.track(round, &user),
                    },
                    _ => self.track(round, &user),
                }
            }
        }
    }

    /// Goes on after a call that was acknowledged.
    pub fn acknowledged(&mut self, call: Call) {
        if !self.is_mixed || call.kind == Kind::Repetition {
            return;
        }
        if call.kind == Kind::Anonymous {
            self.anonymous = Some(anonymous_of(&call.good[0]));
        }
        self.earlier.push_back(call);
        if self.earlier.len() > REPEATED_AFTER {
            self.earlier.pop_front();
        }
    }

    fn user(&self, number: usize) -> String {
        format!("{}-user-{number}", self.prefix)
    }

    fn id(&self, round: u64) -> String {
        format!("{}-{}-{round}", self.prefix, self.number)
    }

    /// A call with one event, in the seed's dialect.
    fn seed(&self, round: u64, user: &str, path: &'static str, more: (&str, Value)) -> Call {
        let id = self.id(round);
        let mut body = json!({"user_id": user, "event_id": id, "properties": {"round": round}});
        body[more.0] = more.1;
        single(Kind::Track, path, &body, id)
    }

    fn track(&self, round: u64, user: &str) -> Call {
        self.seed(round, user, "/v1/track", ("event", json!("load")))
    }

    fn identify(&mut self, round: u64, user: String) -> Call {
        self.counter += 1;
        let traits = json!({"counter": self.counter});
        Call {
            kind: Kind::Identify,
            promise: Promise::Counter(user.clone(), self.counter),
            ..self.seed(round, &user, "/v1/identify", ("traits", traits))
        }
    }

    fn newcomer(&self, round: u64) -> Call {
        let id = self.id(round);
        let body = json!({"anonymousId": anonymous_of(&id), "event": "load", "messageId": id});
        single(Kind::Anonymous, "/v1/track", &body, id)
    }

    /// Both ways to link, in turns.
    fn link(&self, round: u64, user: &str, anonymous: String) -> Call {
        let (path, member) = if round % 16 < 8 {
            ("/v1/alias", "previousId")
        } else {
            ("/v1/identify", "anonymousId")
        };
        let id = self.id(round);
        let mut body = json!({"userId": user, "messageId": id});
        body[member] = json!(anonymous);
        Call {
            promise: Promise::Link(anonymous, user.to_owned()),
            ..single(Kind::Link, path, &body, id)
        }
    }

    /// Half of them ask for what the events led to, which tells the events' ids.
    fn batch(&self, round: u64) -> Call {
        let rejected = (round / 8) % BATCH_EVENTS;
        let id = |place: u64| format!("{}-{place}", self.id(round));
        let events: Vec<Value> = (0..BATCH_EVENTS)
            .map(|place| {
                let mut event = json!({"type": "track", "event": "load", "messageId": id(place)});
                if place != rejected {
                    let user = self.user((self.number + place as usize) % self.clients);
                    event["userId"] = json!(user);
                }
                event
            })
            .collect();
        let good = (0..BATCH_EVENTS).filter(|place| *place != rejected);
        Call {
            kind: Kind::Batch,
            path: if round % 16 < 8 {
                "/v1/batch?matched=true"
            } else {
                "/v1/batch"
            },
            body: json!({"batch": events}).to_string(),
            good: good.map(id).collect(),
            rejected: Some((id(rejected), rejected)),
            promise: Promise::Events,
        }
    }
}

fn repetition(earlier: &Call) -> Call {
    Call {
        kind: Kind::Repetition,
        ..earlier.clone()
    }
}

fn single(kind: Kind, path: &'static str, body: &Value, id: String) -> Call {
    Call {
        kind,
        path,
        body: body.to_string(),
        good: vec![id],
        rejected: None,
        promise: Promise::Events,
    }
}

/// Who sent the event with this message id without a name.
fn anonymous_of(message_id: &str) -> String {
    format!("{message_id}-anonymous")
}
