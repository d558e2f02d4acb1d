//! Traits as the database returns them.
//!
//! They come from events, which may nest as deep as the decoder's limit lets them. The JSON library
//! stops at 128 levels by itself; somebody whose traits could be stored but not be read again could
//! never be identified, merged or shown any more.

use diesel::deserialize::{self, FromSql, FromSqlRow};
use diesel::pg::{Pg, PgValue};
use diesel::sql_types::Jsonb;
use serde::Deserialize;
use serde_json::Value;

/// The first byte of JSONB on the wire: the version of its form, before the text.
const JSONB_VERSION: u8 = 1;

/// Traits, read however deep they nest; what is stored was bounded by the decoder or the import.
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
        let mut parser = serde_json::Deserializer::from_slice(text);
        parser.disable_recursion_limit();
        Ok(Self(Value::deserialize(&mut parser)?))
    }
}
