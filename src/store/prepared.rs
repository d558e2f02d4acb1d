//! Makes a hand-written statement one that is prepared once a connection.
//!
//! `sql_query` is parsed and planned anew at every call; a type of its own with a `QueryId` is not.

/// Implements what Diesel asks of a statement with borrowed parameters: a `QueryId` that stands for
/// its text, the types of the columns it returns (if any), and `RunQueryDsl`.
macro_rules! prepared {
    ($name:ident < '_ $(, const $param:ident : $kind:ty)? > $(=> $columns:ty)?) => {
        impl<$(const $param: $kind)?> diesel::query_builder::QueryId
            for $name<'_ $(, $param)?>
        {
            type QueryId = $name<'static $(, $param)?>;
            const HAS_STATIC_QUERY_ID: bool = true;
        }
        $(
            impl diesel::query_builder::Query for $name<'_> {
                type SqlType = $columns;
            }
        )?
        impl<$(const $param: $kind)?> diesel::RunQueryDsl<diesel::PgConnection>
            for $name<'_ $(, $param)?>
        {
        }
    };
}

pub(crate) use prepared;
