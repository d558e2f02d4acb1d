//! What a load was promised, compared with what the tables hold.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use diesel::PgConnection;

use super::calls::Kind;
use super::{Journal, Rejections};
use crate::support::ledger::ledger_faults;
use crate::support::metrics::assert_metrics;
use crate::support::sql;

/// Panics with a few of them if there are any.
fn none<T: Debug>(what: &str, found: Vec<T>) {
    let some = &found[..found.len().min(10)];
    assert!(found.is_empty(), "{} {what}: {some:?}", found.len());
}

/// Lines of two words.
fn pairs(connection: &mut PgConnection, query: &str) -> Vec<(String, String)> {
    let lines = sql::texts(connection, query);
    let pairs = lines.iter().map(|line| line.split_once(' ').unwrap());
    pairs
        .map(|(one, other)| (one.to_owned(), other.to_owned()))
        .collect()
}

impl Journal {
    /// Checks that the server refused with nothing but 429 and 503, and answered everything.
    pub fn check_refusals(&self) {
        let mut statuses = self.refused.keys();
        let odd = statuses.any(|status| !matches!(status, 429 | 503));
        assert!(!odd, "{:?}", self.refused);
        assert_eq!(self.unanswered, 0, "calls without an answer");
    }

    /// Checks the promises of a load against the tables: what was acknowledged is there once and
    /// under the id that was told, nothing is there twice or was never sent, what was refused is
    /// kept, people are what they were said to be, and the ledger agrees.
    pub fn check(&self, connection: &mut PgConnection, prefix: &str) {
        let own = format!("message_id LIKE {}", sql::quoted(&format!("{prefix}-%")));
        self.check_events(connection, &own);
        self.check_rejections(connection, &own);
        self.check_counters(connection);
        self.check_people(connection, &own);
        none("differ in the ledger", ledger_faults(connection));
        if self.rejections.is_empty() {
            return;
        }
        for kind in Kind::ALL {
            assert!(self.kinds.contains_key(&kind), "no {kind:?} was answered");
        }
        for column in ["duplicate", "rejected"] {
            let count = format!("SELECT sum({column}) FROM ingest_ledger");
            assert!(sql::number(connection, &count) > 0, "{column}");
        }
    }

    /// As [`Self::check`], and compares what the server counted with the ledger and with what this
    /// load heard of it. The process has to be the only one that ever served the database.
    pub fn check_with_metrics(&self, connection: &mut PgConnection, prefix: &str, base: &str) {
        self.check(connection, prefix);
        let counted = assert_metrics(base, connection);
        let heard = [
            self.acknowledged.len() as u64 - self.duplicates,
            self.duplicates,
            self.rejections.values().map(|it| it.sure).sum(),
        ];
        for (counted, heard) in counted.into_iter().zip(heard) {
            assert!(counted >= heard, "{counted} counted, {heard} answered");
        }
    }

    fn check_events(&self, connection: &mut PgConnection, own: &str) {
        let query = format!("SELECT message_id || ' ' || id AS value FROM events WHERE {own}");
        let stored = pairs(connection, &query);
        let mut ids: BTreeMap<&str, &str> = BTreeMap::new();
        let mut twice = Vec::new();
        for (message, id) in &stored {
            if ids.insert(message, id).is_some() {
                twice.push(message);
            }
        }
        none("stored more than once", twice);
        let acknowledged = self.acknowledged.iter();
        let lost = acknowledged.filter(|id| !ids.contains_key(id.as_str()));
        none("acknowledged and lost", lost.collect());
        let tried: BTreeSet<&str> = self.tried.iter().map(String::as_str).collect();
        let unknown = ids.keys().filter(|id| !tried.contains(*id));
        none("stored and never sent", unknown.collect());
        let others = self.told.iter();
        let others = others.filter(|(message, id)| ids.get(message.as_str()) != Some(&id.as_str()));
        none("told with an id that is not theirs", others.collect());
    }

    fn check_rejections(&self, connection: &mut PgConnection, own: &str) {
        let query = format!(
            "SELECT message_id || ' ' || count(*) AS value FROM rejected_events
             WHERE {own} AND code = 'missing_identity'
                 AND payload::json ->> 'messageId' = message_id
             GROUP BY message_id"
        );
        let kept: BTreeMap<String, u64> = pairs(connection, &query)
            .into_iter()
            .map(|(id, count)| (id, count.parse().unwrap()))
            .collect();
        let total = format!("SELECT count(*) FROM rejected_events WHERE {own}");
        let total = sql::number(connection, &total);
        let good: u64 = kept.values().sum();
        assert_eq!(i64::try_from(good), Ok(total), "kept as something else");
        let strange = kept.keys().filter(|id| !self.rejections.contains_key(*id));
        none("rejected and never sent", strange.collect());
        let wrong = self.rejections.iter().filter_map(|(id, expected)| {
            let Rejections { sure, maybe } = *expected;
            let count = kept.get(id).copied().unwrap_or_default();
            let is_explained = (sure..=sure + maybe).contains(&count);
            (!is_explained).then_some((id, count, expected))
        });
        none("rejections lost or not explained", wrong.collect());
    }

    fn check_counters(&self, connection: &mut PgConnection) {
        let wrong = self.counters.iter().filter_map(|(user, counter)| {
            let stored = sql::number(
                connection,
                &format!(
                    "SELECT coalesce(max((p.traits ->> 'counter')::bigint), 0)
                     FROM identities i JOIN persons p ON p.id = i.person_id
                     WHERE i.kind = 0 AND i.value = {}",
                    sql::quoted(user)
                ),
            );
            let stored = u64::try_from(stored).unwrap();
            // Each value up to the last one was sent.
            let is_promised = (counter.acknowledged..=counter.sent).contains(&stored);
            (!is_promised).then_some((user, stored, counter))
        });
        none(
            "traits older than acknowledged or never sent",
            wrong.collect(),
        );
    }

    fn check_people(&self, connection: &mut PgConnection, own: &str) {
        let query = "SELECT person_id || ' ' || kind || '/' || value AS value FROM identities";
        // A load is of one project, and another's people are called otherwise.
        let people = pairs(connection, query);
        let mut person: BTreeMap<(&str, &str), &str> = BTreeMap::new();
        for (id, identity) in &people {
            person.insert(identity.split_once('/').unwrap(), id);
        }
        let apart = self.links.iter().filter(|(anonymous, user)| {
            let linked = person.get(&("1", anonymous.as_str()));
            linked.is_none() || linked != person.get(&("0", user.as_str()))
        });
        none("linked and two people", apart.collect());
        let lost = sql::texts(
            connection,
            &format!(
                "SELECT message_id AS value FROM events e WHERE {own} AND NOT EXISTS
                     (SELECT FROM persons p WHERE p.id = e.person_id AND p.project_id = e.project_id)"
            ),
        );
        none("events of nobody", lost);
        let nameless = sql::texts(
            connection,
            "SELECT p.id::text AS value FROM persons p WHERE merged_into IS NULL AND NOT EXISTS
                 (SELECT FROM identities i WHERE i.person_id = p.id)",
        );
        none("people whom nothing leads to", nameless);
        let stale = sql::texts(
            connection,
            "SELECT i.value FROM identities i WHERE NOT EXISTS (SELECT FROM persons p
                 WHERE p.id = i.person_id AND p.project_id = i.project_id AND merged_into IS NULL)",
        );
        none("identities that lead to nobody", stale);
    }
}
