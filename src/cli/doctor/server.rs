//! The server that the database is on: its version, its settings, its clock.

use diesel::{PgConnection, QueryResult};

use super::{Check, DatabaseCheck, Verdict, number, setting};
use crate::clock::Clock;
use crate::config::Config;
use crate::store::partitions;

/// The oldest Postgres that detaches partitions concurrently.
const POSTGRES_MAJOR_MIN: i64 = 14;

/// What `max_wal_size` of a private Postgres is at least, in MiB, and what it should be of another.
const LOG_MIB_MIN: i64 = 4_096;

/// What `shared_buffers` is where nobody has set it, in bytes.
const BUFFERS_UNSET: i64 = 128 << 20;

/// How many times as large as that much memory a database is that has outgrown it.
const OUTGROWN: i64 = 8;

/// What is looked at.
pub(super) const CHECKS: [(&str, DatabaseCheck); 10] = [
    ("version", version),
    ("fsync", |connection, _| {
        must_be_on(connection, "fsync", "a power cut can lose or damage events")
    }),
    ("full_page_writes", |connection, _| {
        must_be_on(
            connection,
            "full_page_writes",
            "a power cut can damage the database",
        )
    }),
    ("synchronous_commit", synchronous_commit),
    ("wal_level", wal_level),
    ("max_wal_size", max_wal_size),
    ("shared_buffers", shared_buffers),
    ("connections", connections),
    ("clock", clock_difference),
    ("lc_messages", language),
];

fn version(connection: &mut PgConnection, _: &Config) -> QueryResult<Check> {
    let major = number(
        connection,
        "SELECT current_setting('server_version_num')::bigint / 10000 AS value",
    )?;
    let text = setting(connection, "server_version")?;
    let verdict = if major >= POSTGRES_MAJOR_MIN {
        Verdict::Ok
    } else {
        Verdict::Fail
    };
    let advice = format!("upgrade to Postgres {POSTGRES_MAJOR_MIN} or newer");
    Ok(Check::new("version", verdict, text, advice))
}

fn must_be_on(connection: &mut PgConnection, name: &'static str, risk: &str) -> QueryResult<Check> {
    let value = setting(connection, name)?;
    let verdict = if value == "on" {
        Verdict::Ok
    } else {
        Verdict::Fail
    };
    let advice = format!(
        "{risk}; run `ALTER SYSTEM SET {name} = on` and `SELECT pg_reload_conf()` as a superuser"
    );
    Ok(Check::new(name, verdict, value, advice))
}

fn synchronous_commit(connection: &mut PgConnection, _: &Config) -> QueryResult<Check> {
    let value = number(
        connection,
        "SELECT count(*) AS value FROM pg_settings WHERE name = 'synchronous_commit' \
         AND reset_val IN ('off', 'local')",
    )?;
    // Beckon's own sessions set it on, so a weaker default harms other clients only.
    let verdict = if value == 0 {
        Verdict::Ok
    } else {
        Verdict::Warn
    };
    let found = "on for Beckon's sessions";
    let advice = "the server's default is weaker, so what other programs write may be lost";
    Ok(Check::new("synchronous_commit", verdict, found, advice))
}

fn wal_level(connection: &mut PgConnection, _: &Config) -> QueryResult<Check> {
    let value = setting(connection, "wal_level")?;
    let verdict = if value == "minimal" {
        Verdict::Warn
    } else {
        Verdict::Ok
    };
    let advice = "with `minimal` there is no replica and no point-in-time recovery; set `replica`";
    Ok(Check::new("wal_level", verdict, value, advice))
}

fn max_wal_size(connection: &mut PgConnection, _: &Config) -> QueryResult<Check> {
    let mebibytes = number(
        connection,
        "SELECT setting::bigint AS value FROM pg_settings WHERE name = 'max_wal_size'",
    )?;
    let verdict = if mebibytes < LOG_MIB_MIN {
        Verdict::Warn
    } else {
        Verdict::Ok
    };
    let found = setting(connection, "max_wal_size")?;
    let advice = "under load Postgres makes checkpoints often, and writes several times as much; \
        if the disk has room, set `max_wal_size` to 4GB and `min_wal_size` to 1GB";
    Ok(Check::new("max_wal_size", verdict, found, advice))
}

fn shared_buffers(connection: &mut PgConnection, _: &Config) -> QueryResult<Check> {
    let buffers = number(
        connection,
        "SELECT pg_size_bytes(current_setting('shared_buffers')) AS value",
    )?;
    let database = number(
        connection,
        "SELECT pg_database_size(current_database()) AS value",
    )?;
    let verdict = if buffers <= BUFFERS_UNSET && database / OUTGROWN > buffers {
        Verdict::Warn
    } else {
        Verdict::Ok
    };
    let found = format!(
        "{} for a database of {} MB",
        setting(connection, "shared_buffers")?,
        database >> 20
    );
    let advice = "most pages that an event changes are read from the system and written back; set \
        `shared_buffers` to an eighth of the memory, or a quarter where Postgres is alone";
    Ok(Check::new("shared_buffers", verdict, found, advice))
}

/// What asks for English texts may be refused to a session, and says nothing then.
fn language(connection: &mut PgConnection, _: &Config) -> QueryResult<Check> {
    let value = setting(connection, "lc_messages")?;
    let verdict = if is_english(&value) {
        Verdict::Ok
    } else {
        Verdict::Warn
    };
    let advice = "Beckon tells some of the database's errors apart by their English texts; as a \
        superuser, `ALTER ROLE … SET lc_messages = 'C'` for Beckon's role";
    Ok(Check::new("lc_messages", verdict, value, advice))
}

/// Whether messages are in English with this locale. An empty one is that of the server's process,
/// which has no other language unless it was given one.
fn is_english(locale: &str) -> bool {
    let language = locale.split(['_', '.', '-', '@']).next();
    language.is_some_and(|it| ["", "C", "POSIX", "en", "English"].contains(&it))
}

fn connections(connection: &mut PgConnection, _: &Config) -> QueryResult<Check> {
    let most = number(
        connection,
        "SELECT current_setting('max_connections')::bigint AS value",
    )?;
    let used = number(
        connection,
        "SELECT count(*) AS value FROM pg_stat_activity \
         WHERE backend_type = 'client backend'",
    )?;
    let verdict = if used * 10 > most * 9 {
        Verdict::Warn
    } else {
        Verdict::Ok
    };
    let advice = "raise max_connections, or lower pool_size and ingest_shards";
    Ok(Check::new(
        "connections",
        verdict,
        format!("{used} of {most}"),
        advice,
    ))
}

fn clock_difference(connection: &mut PgConnection, _: &Config) -> QueryResult<Check> {
    let difference = partitions::database_now(connection)? - Clock::system().now();
    let millis = difference.num_milliseconds();
    let verdict = match millis.abs() {
        0..5_000 => Verdict::Ok,
        5_000..3_600_000 => Verdict::Warn,
        _ => Verdict::Fail,
    };
    let found = format!("the database's is {millis} ms off this machine's");
    let advice = "let NTP set both clocks; retention refuses to run when they are an hour apart";
    Ok(Check::new("clock", verdict, found, advice))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locales_of_english_are_known() {
        for english in ["", "C", "C.UTF-8", "POSIX", "en_US.utf8", "en-GB"] {
            assert!(is_english(english), "{english}");
        }
        for other in ["de_DE.UTF-8", "fr", "German_Germany.1252"] {
            assert!(!is_english(other), "{other}");
        }
    }
}
