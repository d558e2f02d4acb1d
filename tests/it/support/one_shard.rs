//! Ingest with one shard, in the test's own process, so that a test knows what it does.

use std::time::Duration;

use beckon::clock::Clock;
use beckon::hub::Hub;
use beckon::ingest::decode::Item;
use beckon::ingest::{Ingest, IngestMetrics, IngestOptions, Outcome, Stored, Submission, Wanted};
use beckon::model::{Call, Dialect, Event, EventName, Identity, MessageId, ProjectId, RawJson};
use beckon::store::{Store, StoreOptions};
use beckon::targeting::{Targeting, TargetingOptions};
use beckon::telemetry::metrics::Metrics;
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::BigInt;
use serde_json::value::RawValue;

use super::postgres::{TestDatabase, database};
use super::severed::SeverablePostgres;
use super::{eventually, now};

const PROJECT: ProjectId = ProjectId(1);
const LONG: Duration = Duration::from_secs(20);

pub struct Rig {
    pub ingest: Ingest,
    pub runtime: tokio::runtime::Runtime,
    pub metrics: Metrics,
    _hub: Hub,
}

/// Ingest with one shard, whose connection goes another way than the rest.
pub fn rig(database: &TestDatabase, shard_url: &str) -> Rig {
    rig_with(database, shard_url, IngestOptions::default())
}

/// The same with bounds of its own.
pub fn rig_with(database: &TestDatabase, shard_url: &str, bounds: IngestOptions) -> Rig {
    let store = Store::new(StoreOptions {
        url: database.url.clone(),
        pool_size: 2,
        deadline: Duration::from_secs(10),
    });
    let targeting = Targeting::new(store, Clock::system(), TargetingOptions::default());
    let hub = targeting.start().unwrap();
    let metrics = Metrics::new();
    let options = IngestOptions {
        url: shard_url.to_owned(),
        shards: 1,
        deadline: Duration::from_secs(10),
        metrics: IngestMetrics::new(&metrics),
        ..bounds
    };
    let ingest = Ingest::start(targeting.clone(), options).unwrap();
    eventually("targeting is ready", LONG, || {
        targeting.is_ready().then_some(())
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    Rig {
        ingest,
        runtime,
        metrics,
        _hub: hub,
    }
}

/// A database, a connection to it, and ingest whose shard goes a way that can be cut.
pub fn severable() -> (TestDatabase, PgConnection, SeverablePostgres, Rig) {
    let database = database();
    let mut connection = database.connect();
    let way = SeverablePostgres::before(&mut connection);
    let rig = rig(&database, &way.url);
    (database, connection, way, rig)
}

fn event(user: &str, message: Option<&str>, call: Call) -> Event {
    let now = now();
    Event {
        dialect: Dialect::Segment,
        call,
        user: Some(Identity::user(user).unwrap()),
        anonymous: None,
        message_id: message.map(|id| MessageId::parse(id).unwrap()),
        timestamp: now,
        received_at: now,
        context: None,
        size_bytes: 100,
        replay_of: None,
    }
}

pub fn track(user: &str, name: &str, message: Option<&str>) -> Event {
    let name = EventName::parse(name).unwrap();
    let properties = None;
    event(user, message, Call::Track { name, properties })
}

pub fn identify(user: &str, message: Option<&str>, traits: &str) -> Event {
    let raw = RawJson::from_checked(RawValue::from_string(traits.to_owned()).unwrap());
    event(user, message, Call::Identify { traits: Some(raw) })
}

pub fn request(items: Vec<Item>) -> Submission {
    Submission {
        project: PROJECT,
        received: items.len(),
        items,
        wants: Wanted {
            matches: true,
            traits: true,
        },
    }
}

impl Rig {
    pub fn submit(&self, events: Vec<Event>) -> Vec<Stored> {
        let items: Vec<Item> = events
            .into_iter()
            .map(|event| Item::Event(Box::new(event)))
            .collect();
        let outcomes = self.ingest.submit(request(items));
        let outcomes = self.runtime.block_on(outcomes).unwrap();
        outcomes
            .into_iter()
            .map(|outcome| match outcome {
                Outcome::Stored(stored) => *stored,
                other => panic!("not stored: {other:?}"),
            })
            .collect()
    }
}

#[derive(QueryableByName, Debug, PartialEq, Eq)]
pub struct Sums {
    #[diesel(sql_type = BigInt)]
    pub events: i64,
    #[diesel(sql_type = BigInt)]
    pub received: i64,
    #[diesel(sql_type = BigInt)]
    pub stored: i64,
    #[diesel(sql_type = BigInt)]
    pub duplicate: i64,
}

pub fn sums(connection: &mut PgConnection) -> Sums {
    sql_query(
        "SELECT (SELECT count(*) FROM events) AS events, sum(received)::bigint AS received, \
         sum(stored)::bigint AS stored, sum(duplicate)::bigint AS duplicate FROM ingest_ledger",
    )
    .get_result(connection)
    .unwrap()
}
