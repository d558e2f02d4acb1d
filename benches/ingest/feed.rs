//! Requests and rows, made ahead and given fresh ids as they are sent.
//!
//! 20,000 events of the world are drawn once. Each time one is sent it gets a person, one of
//! 100,000 known ones or, once in a hundred, somebody new, and a message id of its own. Ids have a
//! fixed width, so that giving them is writing digits into a request that is complete otherwise.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use beckon::model::ProjectId;

use crate::world::{Rng, SEED, World};

/// How many people are known before the run.
pub const PEOPLE: u64 = 100_000;
/// Newcomers that the baselines number, which are more than are ever known.
const NEWCOMERS_FROM: u64 = 1_000_000_000;
/// One event in so many is somebody's first.
const NEWCOMER_EVERY: u64 = 100;
/// How many different events there are.
const EVENTS: u64 = 20_000;
const USER_DIGITS: usize = 11;
const MESSAGE_DIGITS: usize = 36;

/// The only project of a fresh install.
pub const PROJECT: ProjectId = ProjectId(1);

/// The key that the load is sent with.
pub const CLIENT_KEY: &str = "wk_benchbenchbenchbenchbenchbench00";

/// An event that has nobody yet.
#[derive(Debug)]
pub struct Draft {
    /// Its name.
    pub name: String,
    /// A JSON object as text.
    pub properties: String,
}

/// What every feed of a run shares.
#[derive(Debug)]
pub struct Source {
    drafts: Vec<Draft>,
    people: u64,
    messages: AtomicU64,
    newcomers: AtomicU64,
    feeds: AtomicU64,
}

impl Source {
    /// Draws the events, which will be about [`PEOPLE`] people.
    pub fn new(world: &World) -> Arc<Self> {
        Self::about(world, PEOPLE, 0)
    }

    /// Draws the events, which will be about so many known people. Message ids and newcomers are
    /// numbered from `from`, which has 10 digits at most.
    pub fn about(world: &World, people: u64, from: u64) -> Arc<Self> {
        let draft = |index| {
            let event = world.event(index);
            Draft {
                name: event.name,
                properties: event.properties.to_string(),
            }
        };
        Arc::new(Self {
            drafts: (0..EVENTS).map(draft).collect(),
            people,
            messages: AtomicU64::new(from),
            newcomers: AtomicU64::new(from),
            feeds: AtomicU64::new(0),
        })
    }

    /// A feed of its own for each connection or load client.
    pub fn feed(self: &Arc<Self>) -> Feed {
        let stream = self.feeds.fetch_add(1, Ordering::Relaxed);
        Feed {
            source: Arc::clone(self),
            rng: Rng::new(SEED, stream),
            next_in_turn: None,
        }
    }
}

/// Whom an event is about.
#[derive(Debug, Clone, Copy)]
pub struct Person {
    /// Counts known people and newcomers apart.
    pub number: u64,
    /// Whether this is the person's first event.
    pub is_new: bool,
}

impl Person {
    /// The application's own id of the person.
    pub fn user_id(self) -> String {
        let kind = if self.is_new { "newc-" } else { "user-" };
        format!("{kind}{:0USER_DIGITS$}", self.number)
    }

    /// Reads what [`Person::user_id`] wrote.
    pub fn of_user_id(user_id: &str) -> Option<Self> {
        let (kind, number) = user_id.split_once('-')?;
        Some(Self {
            number: number.parse().ok()?,
            is_new: kind == "newc",
        })
    }

    /// A number that the database has not given to anybody else.
    pub fn row_id(self) -> i64 {
        let first = if self.is_new { NEWCOMERS_FROM } else { 1 };
        i64::try_from(first + self.number).unwrap_or(i64::MAX)
    }
}

/// A stream of people and message ids.
#[derive(Debug)]
pub struct Feed {
    source: Arc<Source>,
    rng: Rng,
    next_in_turn: Option<u64>,
}

impl Feed {
    /// The same feed, but every known person has their turn.
    pub fn in_turn(mut self) -> Self {
        self.next_in_turn = Some(0);
        self
    }

    /// The next event's person.
    pub fn person(&mut self) -> Person {
        if let Some(number) = &mut self.next_in_turn {
            let person = Person {
                number: *number % self.source.people,
                is_new: false,
            };
            *number += 1;
            return person;
        }
        let is_new = self.rng.below(NEWCOMER_EVERY) == 0;
        let number = if is_new {
            self.source.newcomers.fetch_add(1, Ordering::Relaxed)
        } else {
            self.rng.below(self.source.people)
        };
        Person { number, is_new }
    }

    /// The next event's message id, as a number.
    pub fn message(&mut self) -> u64 {
        self.source.messages.fetch_add(1, Ordering::Relaxed)
    }

    /// Any of the events.
    pub fn draft(&mut self) -> &Draft {
        let place = self.rng.below(self.source.drafts.len() as u64) as usize;
        &self.source.drafts[place]
    }

    /// Any number below the bound.
    pub fn below(&mut self, bound: usize) -> usize {
        self.rng.below(bound as u64) as usize
    }
}

/// A message id as text.
pub fn message_id(number: u64) -> String {
    format!("{number:0MESSAGE_DIGITS$}")
}

/// A request that is complete but for its ids.
#[derive(Debug)]
pub struct Request {
    bytes: Vec<u8>,
    /// Where each event's user id and message id begin.
    places: Vec<(usize, usize)>,
}

/// A request for what this person is to see; it has no ids to be given.
pub fn fetch(person: Person) -> Request {
    Request {
        bytes: format!("{}\r\nHost: bench\r\n\r\n", fetch_head(person)).into_bytes(),
        places: Vec::new(),
    }
}

/// The first line of such a request, and the key.
pub fn fetch_head(person: Person) -> String {
    let user_id = person.user_id();
    format!("GET /v1/campaigns?user_id={user_id} HTTP/1.1\r\nx-api-key: {CLIENT_KEY}")
}

/// Requests of so many events each; 0 is a single call, which is not a list.
pub fn requests(source: &Arc<Source>, batch: usize) -> Vec<Request> {
    requests_to(
        source,
        batch,
        if batch > 0 { "/v1/batch" } else { "/v1/track" },
    )
}

/// As [`requests`], to a route of the bench's choice.
pub fn requests_to(source: &Arc<Source>, batch: usize, route: &str) -> Vec<Request> {
    let drafts = &source.drafts;
    drafts
        .chunks(batch.max(1))
        .map(|drafts| request(drafts, batch > 0, route))
        .collect()
}

fn request(drafts: &[Draft], is_batch: bool, route: &str) -> Request {
    let (user, message) = (
        Person {
            number: 0,
            is_new: false,
        }
        .user_id(),
        message_id(0),
    );
    let mut body = Vec::new();
    let mut places = Vec::new();
    if is_batch {
        body.extend_from_slice(br#"{"batch":["#);
    }
    for (index, draft) in drafts.iter().enumerate() {
        if index > 0 {
            body.push(b',');
        }
        body.extend_from_slice(if is_batch {
            br#"{"type":"track","userId":""#
        } else {
            br#"{"userId":""#
        });
        let user_at = body.len();
        body.extend_from_slice(format!(r#"{user}","messageId":""#).as_bytes());
        places.push((user_at, body.len()));
        let (name, properties) = (&draft.name, &draft.properties);
        body.extend_from_slice(
            format!(r#"{message}","event":"{name}","properties":{properties}}}"#).as_bytes(),
        );
    }
    if is_batch {
        body.extend_from_slice(b"]}");
    }
    let mut bytes = format!(
        "POST {route} HTTP/1.1\r\nHost: bench\r\nx-api-key: {CLIENT_KEY}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    for (user_at, message_at) in &mut places {
        *user_at += bytes.len();
        *message_at += bytes.len();
    }
    bytes.append(&mut body);
    Request { bytes, places }
}

impl Request {
    /// How many events it holds. What is no event counts as one.
    pub fn events(&self) -> usize {
        self.places.len().max(1)
    }

    /// Puts the request with fresh ids in place of what the buffer held.
    pub fn write(&self, feed: &mut Feed, buffer: &mut Vec<u8>) {
        buffer.clear();
        buffer.extend_from_slice(&self.bytes);
        for &(user_at, message_at) in &self.places {
            let person = feed.person();
            let message = feed.message();
            if person.is_new
                && let Some(kind) = buffer.get_mut(user_at..user_at + 4)
            {
                kind.copy_from_slice(b"newc");
            }
            let digits_at = user_at + "user-".len();
            write_digits(buffer, digits_at, USER_DIGITS, person.number);
            write_digits(buffer, message_at, MESSAGE_DIGITS, message);
        }
    }
}

fn write_digits(buffer: &mut [u8], at: usize, count: usize, mut number: u64) {
    let digits = buffer.get_mut(at..at + count).unwrap_or_default();
    for digit in digits.iter_mut().rev() {
        if number == 0 {
            break;
        }
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}
