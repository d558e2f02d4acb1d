//! The files for operators: the list of metrics, the alert rules and the dashboard name only what
//! there is.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;

use beckon::telemetry::metrics::{ALL, Kind};
use regex::Regex;
use serde_json::Value;

use crate::support::metrics::{file, promtool};

fn read(path: &str) -> String {
    fs::read_to_string(file(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The list as the page has it.
fn table() -> String {
    let mut table = String::from("| name | kind | unit | labels | |\n|---|---|---|---|---|\n");
    for metric in ALL {
        let labels: Vec<String> = metric.labels.iter().map(|l| format!("`{l}`")).collect();
        writeln!(
            table,
            "| `{}` | {} | {} | {} | {} |",
            metric.name,
            metric.kind.as_str(),
            metric.unit(),
            labels.join(", "),
            metric.help
        )
        .unwrap();
    }
    table
}

#[test]
fn the_page_lists_every_metric() {
    let page = read("docs/metrics.md");
    let table = table();
    assert!(
        page.contains(&table),
        "docs/metrics.md must hold this table:\n\n{table}"
    );
}

/// The metrics a text names that are none, and those it names that are.
fn names(text: &str) -> (BTreeSet<String>, BTreeSet<&'static str>) {
    let name = Regex::new(r"\b(?:beckon|process)_[a-z0-9_]+").unwrap();
    let (mut unknown, mut known) = (BTreeSet::new(), BTreeSet::new());
    for found in name.find_iter(text) {
        let found = found.as_str();
        let metric = ALL.iter().find(|metric| match metric.kind {
            Kind::Counter | Kind::Gauge => metric.name == found,
            Kind::Seconds | Kind::Events => ["_bucket", "_sum", "_count"]
                .iter()
                .any(|suffix| found.strip_suffix(suffix) == Some(metric.name)),
        });
        match metric {
            Some(metric) => {
                known.insert(metric.name);
            }
            None => {
                unknown.insert(found.to_owned());
            }
        }
    }
    (unknown, known)
}

/// Every `expr` of a dashboard, wherever it stands.
fn queries(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                match member {
                    Value::String(text) if name == "expr" || name == "query" => {
                        found.push(text.clone());
                    }
                    other => queries(other, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| queries(item, found)),
        _ => {}
    }
}

#[test]
fn alerts_name_only_metrics_that_exist() {
    for path in [
        "deploy/prometheus/alerts.yml",
        "deploy/prometheus/alerts_test.yml",
    ] {
        let (unknown, known) = names(&read(path));
        assert!(unknown.is_empty(), "{path}: {unknown:?}");
        assert!(known.len() > 10, "{path}: {known:?}");
    }
    let (unknown, _) = names("rate(beckon_nothing_total[5m]) + beckon_ingest_batch_events");
    assert_eq!(
        unknown.len(),
        2,
        "a histogram has no series of its own name"
    );
}

#[test]
fn the_dashboard_shows_only_metrics_that_exist_and_nearly_all() {
    let dashboard: Value = serde_json::from_str(&read("deploy/grafana/beckon.json")).unwrap();
    let mut found = Vec::new();
    queries(&dashboard, &mut found);
    assert!(found.len() > 20, "{}", found.len());
    let (unknown, known) = names(&found.join("\n"));
    assert!(unknown.is_empty(), "{unknown:?}");
    let described: BTreeSet<&str> = ALL.iter().map(|metric| metric.name).collect();
    let hidden: Vec<_> = described.difference(&known).collect();
    assert!(hidden.len() < 8, "without a panel: {hidden:?}");
    // Grafana tells panels apart by their ids.
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<i64> = panels.iter().map(|p| p["id"].as_i64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len());
}

#[test]
fn prometheus_accepts_every_query_of_the_dashboard() {
    let dashboard: Value = serde_json::from_str(&read("deploy/grafana/beckon.json")).unwrap();
    let mut found = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        queries(&panel["targets"], &mut found);
    }
    let mut rules = String::from("groups:\n  - name: dashboard\n    rules:\n");
    for (number, query) in found.iter().enumerate() {
        let query = query.replace("$__rate_interval", "5m");
        let query = serde_json::to_string(&query).unwrap();
        writeln!(rules, "      - {{record: \"q{number}\", expr: {query}}}").unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("queries.yml");
    fs::write(&path, rules).unwrap();
    promtool(&["check", "rules", path.to_str().unwrap()], "");
}

/// Prometheus adds the names of the job and of the instance to whatever it scrapes.
#[test]
fn the_rules_are_tested_with_series_as_a_scrape_makes_them() {
    let tests = read("deploy/prometheus/alerts_test.yml");
    let series: Vec<&str> = tests
        .lines()
        .filter(|line| line.contains("series: '"))
        .collect();
    assert!(series.len() > 20, "{}", series.len());
    for line in series {
        let is_scraped = line.contains("{job=\"beckon\", instance=\"");
        assert!(is_scraped && line.matches("job=").count() == 1, "{line}");
    }
}

#[test]
fn the_rules_and_their_tests_are_good() {
    promtool(&["check", "rules", "deploy/prometheus/alerts.yml"], "");
    promtool(&["test", "rules", "deploy/prometheus/alerts_test.yml"], "");
    promtool(&["check", "config", "deploy/prometheus/prometheus.yml"], "");
}
