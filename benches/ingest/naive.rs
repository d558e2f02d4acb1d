//! The first plan that comes to mind, as a peer: for each call insert the event, select all active
//! campaigns, select the user, and filter in the process.
//!
//! It is written as well as that plan allows: prepared statements, a pool of connections, one commit
//! a call (two for a newcomer), and the trigger is compared before any rule is looked at. A campaign is
//! loaded as such layers load a row: its JSON becomes values. Its rules are the first rule list's: a field of the user's or of the event's, an operator
//! and a value, all of which must hold. A person's number is known from the user id, which spares it the
//! way over the identities.

use actix_web::{HttpResponse, web};
use beckon::clock::Clock;
use beckon::store::schema::{campaigns, events, persons};
use diesel::r2d2::{ConnectionManager, Pool};
use diesel::sql_types::{BigInt, Text, Timestamptz};
use diesel::{
    ExpressionMethods, OptionalExtension, PgConnection, QueryDsl, QueryResult, RunQueryDsl,
};
use serde_json::Value;
use uuid::Uuid;

use crate::feed::{PROJECT, Person};
use crate::peers::Call;
use crate::report::Outcome;

/// Connections that calls share.
const POOL: u32 = 16;

/// The server's state.
#[derive(Clone)]
pub struct Naive {
    pool: Pool<ConnectionManager<PgConnection>>,
    clock: Clock,
}

impl Naive {
    /// Connects.
    pub fn new(url: &str) -> Outcome<Self> {
        let manager = ConnectionManager::new(url);
        Ok(Self {
            pool: Pool::builder().max_size(POOL).build(manager)?,
            clock: Clock::system(),
        })
    }
}

/// Answers a track call with the campaigns that it matches.
pub async fn track(body: web::Bytes, naive: web::Data<Naive>) -> HttpResponse {
    let done = web::block(move || {
        let call: Call<'_> = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
        let mut connection = naive.pool.get().map_err(|error| error.to_string())?;
        let now = naive.clock.now();
        answer(&mut connection, &call, now).map_err(|error| error.to_string())
    });
    match done.await {
        Ok(Ok(body)) => HttpResponse::Ok()
            .content_type("application/json")
            .body(body),
        Ok(Err(error)) => HttpResponse::InternalServerError().body(error),
        Err(error) => HttpResponse::InternalServerError().body(error.to_string()),
    }
}

fn answer(
    connection: &mut PgConnection,
    call: &Call<'_>,
    now: chrono::DateTime<chrono::Utc>,
) -> Outcome<String> {
    let person = Person::of_user_id(call.user_id).ok_or("a user id that the bench did not make")?;
    if person.is_new {
        insert_person(connection, person, call.user_id, now)?;
    }
    let properties: Value = serde_json::from_str(call.properties.get())?;
    diesel::insert_into(events::table)
        .values((
            events::received_on.eq(now.date_naive()),
            events::id.eq(Uuid::now_v7()),
            events::project_id.eq(PROJECT.0),
            events::person_id.eq(person.row_id()),
            events::kind.eq(0),
            events::name.eq(call.event),
            events::user_id.eq(call.user_id),
            events::message_id.eq(call.message_id),
            events::properties.eq(&properties),
            events::timestamp.eq(now),
            events::received_at.eq(now),
        ))
        .execute(connection)?;
    let live: Vec<(String, Option<String>, Value)> = campaigns::table
        .filter(campaigns::project_id.eq(PROJECT.0))
        .filter(campaigns::status.eq("active"))
        .select((campaigns::id, campaigns::trigger, campaigns::body))
        .load(connection)?;
    let traits: Option<Value> = persons::table
        .find(person.row_id())
        .select(persons::traits)
        .first(connection)
        .optional()?;
    let traits = traits.unwrap_or_default();
    let mut matched = Vec::new();
    for (id, trigger, campaign) in &live {
        if trigger.as_deref() != Some(call.event) {
            continue;
        }
        let rules = campaign.get("targeting").and_then(|all| all.get("and"));
        let rules = rules.and_then(Value::as_array).map(Vec::as_slice);
        if rules
            .unwrap_or_default()
            .iter()
            .all(|rule| holds(rule, &traits, &properties) == Some(true))
        {
            matched.push(serde_json::json!({ "id": id, "campaign": campaign }));
        }
    }
    Ok(serde_json::json!({ "ok": true, "campaigns": matched }).to_string())
}

fn insert_person(
    connection: &mut PgConnection,
    person: Person,
    user_id: &str,
    now: chrono::DateTime<chrono::Utc>,
) -> QueryResult<()> {
    diesel::sql_query(
        "WITH born AS (INSERT INTO persons (id, project_id, home, bucketing_kind, \
         bucketing_value, created_at, last_seen_at) VALUES ($1, 1, 0, 0, $2, $3, $3) \
         ON CONFLICT DO NOTHING) INSERT INTO identities (project_id, kind, value, person_id, \
         created_at) VALUES (1, 0, $2, $1, $3) ON CONFLICT DO NOTHING",
    )
    .bind::<BigInt, _>(person.row_id())
    .bind::<Text, _>(user_id)
    .bind::<Timestamptz, _>(now)
    .execute(connection)
    .map(drop)
}

/// Whether one rule holds: `{operator: [{var: field}, value]}`, or a range in the middle.
fn holds(rule: &Value, traits: &Value, properties: &Value) -> Option<bool> {
    let (operator, operands) = rule.as_object()?.iter().next()?;
    let operands = operands.as_array()?;
    let read = |place: usize| {
        let operand = operands.get(place)?;
        let Some(path) = operand.get("var").and_then(Value::as_str) else {
            return Some(operand);
        };
        let (from, field) = path.rsplit_once('.')?;
        let source = if from == "user.traits" {
            traits
        } else {
            properties
        };
        source.get(field)
    };
    let number = |place: usize| read(place)?.as_f64();
    Some(match operator.as_str() {
        "==" => read(0)? == read(1)?,
        "!=" => read(0)? != read(1)?,
        "in" => read(1)?.as_array()?.contains(read(0)?),
        ">=" => number(0)? >= number(1)?,
        "<" => number(0)? < number(1)?,
        "<=" => number(0)? <= number(1)? && operands.get(2).is_none_or(|_| number(1) <= number(2)),
        _ => return None,
    })
}
