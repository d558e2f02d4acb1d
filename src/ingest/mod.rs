//! From bytes of a request to rows that are committed: decode, admission, per-person order, group
//! commit and the ledger of rejected events.

pub mod decode;
