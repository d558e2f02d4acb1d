//! What a command says: results to standard output, remarks to standard error.
//!
//! A reader that has gone (`beckon … | head`) is no failure, so errors of writing are ignored.

use std::fmt::Display;
use std::io::Write;

use serde::Serialize;

/// One line of the result.
pub(super) fn line(text: impl Display) {
    let mut out = std::io::stdout().lock();
    let _reader_gone = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// The whole result as one JSON document.
pub(super) fn json(value: &impl Serialize) {
    match serde_json::to_string_pretty(value) {
        Ok(text) => line(text),
        Err(error) => note(format_args!("error: the result cannot be written: {error}")),
    }
}

/// A remark, which is no part of the result.
pub(super) fn note(text: impl Display) {
    let mut out = std::io::stderr().lock();
    let _reader_gone = writeln!(out, "{text}");
}

/// Free text for one line of a terminal: no control character may reach that.
pub(super) fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let escaped = c.is_control().then(|| c.escape_default());
            let plain = (!c.is_control()).then_some(c);
            escaped.into_iter().flatten().chain(plain)
        })
        .collect()
}

/// A table with aligned columns.
pub(super) fn table(headings: &[&str], rows: &[Vec<String>]) {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells
            .map(|cell| cell.chars().count())
            .chain(headings.get(column).map(|heading| heading.len()))
            .max()
            .unwrap_or_default()
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let render = |cells: Vec<&str>| {
        let padded = cells.iter().zip(&widths);
        let text: Vec<String> = padded
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        text.join("  ").trim_end().to_owned()
    };
    line(render(headings.to_vec()));
    for row in rows {
        line(render(row.iter().map(String::as_str).collect()));
    }
}
