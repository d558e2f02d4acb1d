//! JSON as the database returns it, however deep it nests; what is stored was bounded by the decoder or
//! the import.
//!
//! The values of flags may come from imports, which nest as deep as their limits let them. The JSON
//! library stops at 128 levels by itself: one flag that could be stored but not be read again would
//! keep all of its project's from being read.

use diesel::deserialize::{self, FromSql, FromSqlRow};
use diesel::pg::{Pg, PgValue};
use diesel::sql_types::{Json, Nullable};
use serde::Deserialize;
use serde_json::Value;

fn parse(text: &[u8]) -> deserialize::Result<Value> {
    let mut parser = serde_json::Deserializer::from_slice(text);
    parser.disable_recursion_limit();
    Ok(Value::deserialize(&mut parser)?)
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
