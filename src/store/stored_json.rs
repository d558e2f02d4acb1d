//! JSON as the database returns it, however deep it nests; what is stored was bounded by the decoder or
//! the import.
//!
//! Traits come from events, and the values of flags from imports too, which may nest as deep as their
//! limits let them. The JSON library stops at 128 levels by itself: somebody whose traits could be
//! stored but not be read again could never be identified, merged or shown any more, and one such flag
//! would keep all of its project's from being read.

use diesel::deserialize::{self, FromSql, FromSqlRow};
use diesel::pg::{Pg, PgValue};
use diesel::sql_types::{Json, Jsonb, Nullable};
use serde::Deserialize;
use serde_json::Value;

/// The first byte of JSONB on the wire: the version of its form, before the text.
const JSONB_VERSION: u8 = 1;

fn parse(text: &[u8]) -> deserialize::Result<Value> {
    let mut parser = serde_json::Deserializer::from_slice(text);
    parser.disable_recursion_limit();
    Ok(Value::deserialize(&mut parser)?)
}

/// Traits.
#[derive(Debug, FromSqlRow)]
pub struct Traits(Value);

impl From<Traits> for Value {
    fn from(traits: Traits) -> Self {
        traits.0
    }
}

impl FromSql<Jsonb, Pg> for Traits {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        let text = value
            .as_bytes()
            .strip_prefix(&[JSONB_VERSION])
            .ok_or("an unknown form of JSONB")?;
        parse(text).map(Self)
    }
}

/// What a flag gives, or whom it targets.
#[derive(Debug, FromSqlRow)]
pub struct OfFlag(Option<Value>);

impl From<OfFlag> for Option<Value> {
    fn from(stored: OfFlag) -> Self {
        stored.0
    }
}

impl FromSql<Nullable<Json>, Pg> for OfFlag {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        parse(value.as_bytes()).map(|value| Self(Some(value)))
    }

    fn from_nullable_sql(value: Option<PgValue<'_>>) -> deserialize::Result<Self> {
        value.map_or(Ok(Self(None)), Self::from_sql)
    }
}
