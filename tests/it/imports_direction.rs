//! Keeps the direction in which the modules import each other, as ARCHITECTURE.md draws it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What one top-level module may import, and why no more.
struct Layer {
    module: &'static str,
    may_import: &'static [&'static str],
    /// True for modules that know no I/O, no clock and no randomness.
    is_pure: bool,
    reason: &'static str,
}

/// What every module but the pure ones may import.
macro_rules! ground {
    ($($more:literal),*) => {
        &["model", "error", "config", "clock", "memory", "telemetry", "rules", "segments", "matcher", $($more),*]
    };
}

const LAYERS: [Layer; 20] = [
    Layer {
        module: "model",
        may_import: &[],
        is_pure: true,
        reason: "plain types; everything else speaks in them",
    },
    Layer {
        module: "error",
        may_import: &["model"],
        is_pure: true,
        reason: "the domain's errors know neither HTTP nor the database",
    },
    Layer {
        module: "config",
        may_import: &["model", "error"],
        is_pure: false,
        reason: "read once at start and passed in",
    },
    Layer {
        module: "clock",
        may_import: &[],
        is_pure: false,
        reason: "the one place that knows the time",
    },
    Layer {
        module: "memory",
        may_import: &[],
        is_pure: false,
        reason: "how much there is; who takes it, asks",
    },
    Layer {
        module: "telemetry",
        may_import: &["model", "error", "config", "clock"],
        is_pure: false,
        reason: "logs and metrics of whoever calls it",
    },
    Layer {
        module: "rules",
        may_import: &["model", "error"],
        is_pure: true,
        reason: "the same rule and data give the same answer on every node, for ever",
    },
    Layer {
        module: "segments",
        may_import: &["model", "error", "rules"],
        is_pure: true,
        reason: "membership of one user is computed, not looked up",
    },
    Layer {
        module: "matcher",
        may_import: &["model", "error", "rules", "segments"],
        is_pure: true,
        reason: "an immutable snapshot decides; it asks nobody",
    },
    Layer {
        module: "store",
        may_import: ground!(),
        is_pure: false,
        reason: "an adapter; adapters never import each other",
    },
    Layer {
        module: "hub",
        may_import: ground!("store"),
        is_pure: false,
        reason: "an adapter; it connects through store, and knows no other one",
    },
    Layer {
        module: "embedded_pg",
        may_import: &["memory"],
        is_pure: false,
        reason: "an adapter that knows nothing of Beckon: what it gives is a URL",
    },
    Layer {
        module: "targeting",
        may_import: ground!("store", "hub"),
        is_pure: false,
        reason: "a service on the adapters; it knows no other service",
    },
    Layer {
        module: "ingest",
        may_import: ground!("store", "hub", "targeting"),
        is_pure: false,
        reason: "a service; it asks targeting for decisions and nobody else",
    },
    Layer {
        module: "history",
        may_import: ground!("store"),
        is_pure: false,
        reason: "a service on stored facts; it decides with the matcher alone",
    },
    Layer {
        module: "retention",
        may_import: ground!("store", "hub"),
        is_pure: false,
        reason: "a service on the adapters; it knows no other service",
    },
    Layer {
        module: "transfer",
        may_import: ground!("store", "hub"),
        is_pure: false,
        reason: "a service on the adapters; it knows no other service",
    },
    Layer {
        module: "http",
        may_import: ground!(
            "store",
            "hub",
            "targeting",
            "ingest",
            "history",
            "retention",
            "transfer"
        ),
        is_pure: false,
        reason: "speaks HTTP for the services; only the command line starts it",
    },
    Layer {
        module: "cli",
        may_import: ground!(
            "store",
            "hub",
            "embedded_pg",
            "targeting",
            "ingest",
            "history",
            "retention",
            "transfer",
            "http"
        ),
        is_pure: false,
        reason: "the composition root; nothing imports it but main",
    },
    Layer {
        module: "main",
        may_import: &["cli"],
        is_pure: false,
        reason: "forty lines that hand over to the command line",
    },
];

/// What a pure module must not name.
const IMPURE: [&str; 12] = [
    "diesel::",
    "tokio::",
    "actix_web::",
    "getrandom::",
    "std::fs",
    "std::net",
    "std::env",
    "std::process",
    "std::time::Instant",
    "SystemTime",
    "Instant::now",
    "Utc::now",
];

#[test]
fn modules_import_only_what_stands_above_them() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&source, &mut files);
    assert!(files.len() > 5, "{files:?}");
    let mut problems = Vec::new();
    for file in files {
        let path = file.strip_prefix(&source).unwrap();
        let text = fs::read_to_string(&file).unwrap();
        problems.extend(problems_of(path, &text));
    }
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            files.push(path);
        }
    }
}

/// What is wrong with one file of `src`.
fn problems_of(path: &Path, text: &str) -> Vec<String> {
    let place = module_path(path);
    let top = place.first().map_or("lib", String::as_str);
    if top == "lib" {
        return Vec::new();
    }
    let Some(layer) = LAYERS.iter().find(|layer| layer.module == top) else {
        return vec![format!("{}: {top} has no row in the table", path.display())];
    };
    let code = without_comments_and_strings(text);
    let mut problems: Vec<String> = imports(&code, &place)
        .into_iter()
        .filter(|module| module != top && !layer.may_import.contains(&module.as_str()))
        .map(|module| {
            format!(
                "{}: {top} must not import {module} ({})",
                path.display(),
                layer.reason
            )
        })
        .collect();
    if layer.is_pure {
        let named = IMPURE.iter().filter(|name| code.contains(**name));
        problems.extend(named.map(|name| {
            format!(
                "{}: {top} is pure and names {name} ({})",
                path.display(),
                layer.reason
            )
        }));
    }
    problems
}

/// The module a file holds, as names from the crate's root; empty for `lib.rs`.
fn module_path(path: &Path) -> Vec<String> {
    let mut names: Vec<String> = path
        .with_extension("")
        .iter()
        .map(|name| name.to_str().unwrap().to_owned())
        .collect();
    if names.last().is_some_and(|name| name == "mod") || names == ["lib"] {
        names.pop();
    }
    names
}

/// The top-level modules of this crate that the code names.
fn imports(code: &str, place: &[String]) -> BTreeSet<String> {
    let known: BTreeSet<&str> = LAYERS.iter().map(|layer| layer.module).collect();
    let mut found = BTreeSet::new();
    let mut roots = vec!["crate::".to_owned()];
    // `main.rs` meets the library by its name.
    if place == ["main"] {
        roots.push("beckon::".to_owned());
    }
    // As many `super::` as the module is deep lead to the root.
    roots.push("super::".repeat(place.len()));
    for root in roots {
        for (at, _) in code.match_indices(&root) {
            let before = code[..at].chars().next_back();
            if before
                .is_some_and(|letter| letter.is_alphanumeric() || letter == '_' || letter == ':')
            {
                continue;
            }
            let rest = code[at + root.len()..].trim_start();
            let names = match rest.strip_prefix('{') {
                Some(group) => first_names(group),
                None => vec![name_at(rest)],
            };
            // Through `super::`, a name may also be an item; only modules count.
            found.extend(
                names
                    .into_iter()
                    .filter(|name| known.contains(name.as_str())),
            );
        }
    }
    found
}

/// The first name of each path in a brace group, whose opening brace is gone.
fn first_names(group: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut depth = 0_u32;
    let mut expects_name = true;
    for (at, letter) in group.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => expects_name = true,
            _ if expects_name && (letter.is_alphabetic() || letter == '_') => {
                names.push(name_at(&group[at..]));
                expects_name = false;
            }
            _ => {}
        }
    }
    names
}

fn name_at(text: &str) -> String {
    text.chars()
        .take_while(|letter| letter.is_alphanumeric() || *letter == '_')
        .collect()
}

/// The code alone: comments become a space, strings and characters become empty ones.
fn without_comments_and_strings(text: &str) -> String {
    let letters: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < letters.len() {
        let two = (letters[at], letters.get(at + 1).copied());
        match two {
            ('/', Some('/')) => {
                at = position(&letters, at, |rest| rest.starts_with(&['\n']));
            }
            ('/', Some('*')) => {
                at = position(&letters, at + 2, |rest| rest.starts_with(&['*', '/'])) + 2;
                code.push(' ');
            }
            ('r', Some('"' | '#'))
                if !ends_in_a_name(&code) && raw_hashes(&letters[at..]).is_some() =>
            {
                let hashes = raw_hashes(&letters[at..]).unwrap();
                let mut end = vec!['"'];
                end.extend(std::iter::repeat_n('#', hashes));
                at = position(&letters, at + hashes + 2, |rest| rest.starts_with(&end)) + end.len();
                code.push_str("\"\"");
            }
            ('"', _) => {
                at += 1;
                while at < letters.len() && letters[at] != '"' {
                    at += if letters[at] == '\\' { 2 } else { 1 };
                }
                at += 1;
                code.push_str("\"\"");
            }
            // A character, and not a lifetime.
            ('\'', Some('\\')) => {
                at = position(&letters, at + 3, |rest| rest.starts_with(&['\''])) + 1;
            }
            ('\'', Some(_)) if letters.get(at + 2) == Some(&'\'') => at += 3,
            (letter, _) => {
                code.push(letter);
                at += 1;
            }
        }
    }
    code
}

fn position(letters: &[char], from: usize, is_there: impl Fn(&[char]) -> bool) -> usize {
    (from..letters.len())
        .find(|at| is_there(&letters[*at..]))
        .unwrap_or(letters.len())
}

fn ends_in_a_name(code: &str) -> bool {
    code.chars()
        .next_back()
        .is_some_and(|letter| letter.is_alphanumeric() || letter == '_')
}

/// How many hashes open the raw string that begins here; `None` when none begins.
fn raw_hashes(letters: &[char]) -> Option<usize> {
    let hashes = letters[1..]
        .iter()
        .take_while(|letter| **letter == '#')
        .count();
    (letters.get(hashes + 1) == Some(&'"')).then_some(hashes)
}

#[test]
fn a_violation_is_noticed_however_it_is_written() {
    let names = |path: &str, text: &str| problems_of(Path::new(path), text).join("; ");
    for (path, text, culprit) in [
        ("rules/mod.rs", "use crate::store::Store;", "store"),
        ("rules/parse.rs", "fn f() { crate::http::x() }", "http"),
        (
            "matcher/mod.rs",
            "use crate::{model::Id, targeting};",
            "targeting",
        ),
        (
            "matcher/a/b.rs",
            "use super::super::super::hub::Hub;",
            "hub",
        ),
        ("store/mod.rs", "use super::hub::Hub;", "hub"),
        (
            "store/mod.rs",
            "use crate::{\n    error::{Code, Error},\n    ingest::Ingest,\n};",
            "ingest",
        ),
        (
            "hub/mod.rs",
            "pub(crate) use crate::embedded_pg;",
            "embedded_pg",
        ),
        ("targeting/mod.rs", "use crate::ingest::Ingest;", "ingest"),
        (
            "transfer/mod.rs",
            "use crate::targeting::Targeting;",
            "targeting",
        ),
        ("http/mod.rs", "use crate::cli::Serve;", "cli"),
        ("model/ids.rs", "use crate::error::Error;", "error"),
        ("main.rs", "fn main() { beckon::http::run() }", "http"),
        (
            "matcher/mod.rs",
            "use chrono::Utc; fn f() { Utc::now(); }",
            "Utc::now",
        ),
        ("segments/mod.rs", "use std::fs::File;", "std::fs"),
        ("helpers/mod.rs", "", "no row"),
    ] {
        let told = names(path, text);
        assert!(told.contains(culprit), "{path}: {text}: {told:?}");
    }
    for (path, text) in [
        (
            "rules/mod.rs",
            "use crate::model::Id; use crate::error::Error;",
        ),
        (
            "rules/mod.rs",
            "// use crate::store::Store;\n/* crate::http */ fn f() {}",
        ),
        (
            "rules/mod.rs",
            "fn f() { let a = \"crate::store\"; let b = r#\"\"crate::http\"#; }",
        ),
        (
            "rules/mod.rs",
            "fn f<'a>(c: char) -> bool { c == '\"' || c == '\\'' } // crate::store",
        ),
        (
            "ingest/mod.rs",
            "use crate::targeting::Targeting; use crate::store::Store;",
        ),
        (
            "store/events.rs",
            "use super::hub_rows; use super::schema::events;",
        ),
        ("cli/mod.rs", "use crate::http; use crate::embedded_pg;"),
        ("main.rs", "fn main() { beckon::cli::main() }"),
        ("lib.rs", "pub mod store;"),
    ] {
        assert_eq!(names(path, text), "", "{path}: {text}");
    }
}

#[test]
fn the_table_has_no_circle() {
    // Taking away, again and again, what imports nothing that is left must end with nothing.
    let mut left: Vec<&Layer> = LAYERS.iter().collect();
    for layer in &left {
        assert!(!layer.reason.is_empty(), "{}", layer.module);
    }
    for _ in 0..LAYERS.len() {
        let names: BTreeSet<&str> = left.iter().map(|layer| layer.module).collect();
        left.retain(|layer| layer.may_import.iter().any(|name| names.contains(name)));
    }
    let circle: Vec<&str> = left.iter().map(|layer| layer.module).collect();
    assert!(circle.is_empty(), "{circle:?} import each other");
}
