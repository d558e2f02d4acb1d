//! What a bench says: a table for people, and the same as JSON in `target/bench/`.

use std::error::Error;
use std::fmt::Display;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// What a bench's steps return.
pub type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// One line of text.
pub fn line(text: impl Display) {
    let mut out = std::io::stdout().lock();
    let _reader_gone = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// A table; the first column is aligned to the left, the others to the right.
pub fn table(headings: &[&str], rows: &[Vec<String>]) {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        let heading = headings.get(column).map(|heading| heading.chars().count());
        cells
            .map(|cell| cell.chars().count())
            .chain(heading)
            .max()
            .unwrap_or_default()
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let render = |cells: Vec<&str>| {
        let mut text = String::new();
        for (column, (cell, width)) in cells.iter().zip(&widths).enumerate() {
            text.push_str(&match column {
                0 => format!("{cell:<width$}"),
                _ => format!("  {cell:>width$}"),
            });
        }
        text
    };
    line(render(headings.to_vec()));
    for row in rows {
        line(render(row.iter().map(String::as_str).collect()));
    }
}

/// The middle of the figures; of an even number the higher of the two in the middle.
pub fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The figure below which this share of sorted ones lies.
pub fn quantile(sorted: &[u32], share: f64) -> u32 {
    let place = (sorted.len() as f64 * share) as usize;
    let last = sorted.len().saturating_sub(1);
    sorted.get(place.min(last)).copied().unwrap_or_default()
}

/// The folder for results and for the data of a run, below cargo's target folder.
pub fn folder() -> Outcome<PathBuf> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .parent()
        .ok_or("cargo's target folder has no parent")?;
    let folder = target.join("bench");
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// Writes the results beside the text.
pub fn write_json(name: &str, results: &Value) -> Outcome<()> {
    let path = folder()?.join(format!("{name}.json"));
    std::fs::write(&path, format!("{results:#}\n"))?;
    line(format_args!("\nwritten to {}", path.display()));
    Ok(())
}

/// What the figures were measured on.
pub fn machine() -> Value {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let after = |text: &str, name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name))
            .map(|rest| rest.trim_start_matches([' ', '\t', ':']).to_owned())
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    serde_json::json!({
        "cpu": after(&read("/proc/cpuinfo"), "model name"),
        "cores": cores,
        "memory": after(&read("/proc/meminfo"), "MemTotal"),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "load_before": read("/proc/loadavg").trim(),
    })
}

/// Refuses options that the bench does not know, so that a slip does not cost a long run. `flags` stand
/// alone, `valued` have a value after them.
pub fn refuse_unknown(flags: &[&str], valued: &[&str]) -> Outcome<()> {
    // Of cargo, and of `goals`.
    let shared = ["--bench", "--must"];
    let is_known = |it: &str| {
        shared
            .iter()
            .chain(flags)
            .chain(valued)
            .any(|known| *known == it)
    };
    let given = std::env::args().skip(1).filter(|it| it.starts_with('-'));
    for option in given {
        if !is_known(&option) {
            let values = valued.iter().map(|name| format!("{name} …"));
            let known: Vec<String> = flags
                .iter()
                .map(|it| (*it).to_owned())
                .chain(values)
                .collect();
            return Err(format!("{option} is none of --must, {}", known.join(", ")).into());
        }
    }
    Ok(())
}

/// Whether the arguments hold this word.
pub fn flag(name: &str) -> bool {
    std::env::args().any(|argument| argument == name)
}

/// One word of the arguments, as `--part ways`.
pub fn word(name: &str) -> Outcome<Option<String>> {
    let mut arguments = std::env::args().skip_while(|argument| argument != name);
    match (arguments.next(), arguments.next()) {
        (None, _) => Ok(None),
        (Some(_), Some(value)) => Ok(Some(value)),
        (Some(_), None) => Err(format!("{name} needs a value").into()),
    }
}

/// One whole number of the arguments, as `--rounds 3`; cargo's own arguments are passed over.
pub fn argument(name: &str, otherwise: u64) -> Outcome<u64> {
    let mut arguments = std::env::args().skip_while(|argument| argument != name);
    match (arguments.next(), arguments.next()) {
        (None, _) => Ok(otherwise),
        (Some(_), Some(value)) => Ok(value.parse()?),
        (Some(_), None) => Err(format!("{name} needs a number").into()),
    }
}
