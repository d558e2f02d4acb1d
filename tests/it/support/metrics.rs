//! Reads what a scrape gives, and runs Prometheus's own tool.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use diesel::PgConnection;

use super::{ADMIN_KEY, Client, eventually, pause, sql};

/// How long it may take until the last caller has its answer.
const SETTLED_WITHIN: Duration = Duration::from_secs(10);

/// One scrape: each series as it is written, with its value.
#[derive(Debug, Clone)]
pub struct Scrape {
    /// The text as received.
    pub text: String,
    /// Every line that is no comment: the series and its value.
    pub series: BTreeMap<String, f64>,
}

impl Scrape {
    /// Scrapes with a client whose key may read, or needs none.
    pub fn of(client: &Client) -> Self {
        let answer = client.get("/metrics");
        assert_eq!(answer.status, 200, "{}", answer.text());
        let kind = answer.header("content-type");
        assert!(kind.starts_with("text/plain; version=0.0.4"), "{kind}");
        let text = answer.text();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let series = lines
            .map(|line| {
                let (series, value) = line.rsplit_once(' ').unwrap();
                (series.to_owned(), value.parse().unwrap())
            })
            .collect();
        Self { text, series }
    }

    /// The value of one series; panics when it is not there.
    pub fn value(&self, series: &str) -> f64 {
        let value = self.series.get(series);
        *value.unwrap_or_else(|| panic!("no {series} in\n{}", self.text))
    }

    /// The sum of all series of one name that hold this text; 0 without any.
    pub fn sum(&self, name: &str, holding: &str) -> f64 {
        self.series
            .iter()
            .filter(|(series, _)| name_of(series) == name && series.contains(holding))
            .map(|(_, value)| value)
            .sum()
    }

    /// Received events without those that are accounted for; 0 once nothing is lost.
    pub fn difference(&self, project: i64) -> f64 {
        let label = format!("project=\"{project}\"");
        let of = |name: &str| self.sum(&format!("beckon_ingest_{name}"), &label);
        of("received_events_total")
            - of("stored_events_total")
            - of("duplicate_events_total")
            - of("rejected_events_total")
            - of("failed_events_total")
            - of("in_flight_events")
    }
}

/// Compares what a server counted of the default project's events with the ledger, once nobody
/// waits for an answer, and gives how many were stored, duplicates and rejected. The server has to
/// be the only process that ever served the database.
///
/// A call that was answered with 503 counts as failed, and its events may have been committed all
/// the same. So the ledger may hold more of each kind, but not more than failed.
pub fn assert_metrics(base: &str, connection: &mut PgConnection) -> [u64; 3] {
    let client = Client::new(base).key(ADMIN_KEY);
    let project = sql::default_project(connection);
    let label = format!("project=\"{project}\"");
    let scrape = eventually("nobody waits", SETTLED_WITHIN, || {
        // A text is given again for a while, so the first one may be of an earlier moment.
        pause(Duration::from_millis(300));
        let scrape = Scrape::of(&client);
        (scrape.sum("beckon_ingest_in_flight_events", &label) == 0.0).then_some(scrape)
    });
    let count = |name: &str| {
        let value = scrape.sum(&format!("beckon_ingest_{name}_events_total"), &label);
        assert!(value.fract() == 0.0 && value >= 0.0, "{name}: {value}");
        #[expect(clippy::cast_possible_truncation, reason = "a whole number")]
        #[expect(clippy::cast_sign_loss, reason = "not negative")]
        let value = value as u64;
        value
    };
    assert_eq!(scrape.difference(project), 0.0, "{}", scrape.text);
    assert_eq!(count("unaccounted"), 0, "{}", scrape.text);
    let failed = count("failed");
    let settled = ["stored", "duplicate", "rejected"].map(|name| {
        let query = format!("SELECT sum({name}) FROM ingest_ledger WHERE project_id = {project}");
        let counted = count(name);
        let ledger = u64::try_from(sql::number(connection, &query)).unwrap();
        assert!(
            (counted..=counted + failed).contains(&ledger),
            "{name}: {counted} by the metrics, {ledger} in the ledger, {failed} failed"
        );
        counted
    });
    println!("metrics: [stored, duplicate, rejected] = {settled:?}, {failed} failed");
    settled
}

/// The name of a series, without its labels.
pub fn name_of(series: &str) -> &str {
    series.split_once('{').map_or(series, |(name, _)| name)
}

/// A file of the repository.
pub fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Runs promtool, which is fetched when it is not there; panics when it finds something wrong.
pub fn promtool(arguments: &[&str], input: &str) {
    let mut process = Command::new(file("scripts/promtool"))
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = process.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    drop(stdin);
    let output = process.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "promtool {arguments:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
