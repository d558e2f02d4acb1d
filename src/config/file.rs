//! The file: TOML, one key a setting, no tables.

use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::parse::suggestion;
use super::{ConfigErrors, VARIABLES};

/// The largest file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Each setting in the file: its name, its value as text and its line.
pub(super) fn read(path: &Path) -> Result<Vec<(&'static str, String, usize)>, ConfigErrors> {
    let unreadable = |error: &dyn std::fmt::Display| {
        ConfigErrors(vec![format!(
            "the configuration file {} cannot be read: {error}",
            path.display()
        )])
    };
    let size = std::fs::metadata(path).map_err(|error| unreadable(&error))?;
    if size.len() > FILE_BYTES_MAX {
        return Err(unreadable(&"it is larger than 1 MiB"));
    }
    let text = std::fs::read_to_string(path).map_err(|error| unreadable(&error))?;
    parse(&text).map_err(|errors| {
        let errors = errors.into_iter();
        let named = errors.map(|(line, reason)| format!("{}:{line}: {reason}", path.display()));
        ConfigErrors(named.collect())
    })
}

type Setting = (&'static str, String, usize);

/// The settings in a file's text, or each error with its line.
pub(super) fn parse(text: &str) -> Result<Vec<Setting>, Vec<(usize, String)>> {
    let line_of = |at: usize| text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1;
    let table = DeTable::parse(text).map_err(|error| {
        let line = error.span().map_or(1, |span| line_of(span.start));
        vec![(line, error.message().to_owned())]
    })?;
    let mut settings = Vec::new();
    let mut errors = Vec::new();
    for (key, value) in table.get_ref() {
        let line = line_of(key.span().start);
        let name = key.get_ref();
        let variable = VARIABLES.iter().find(|variable| variable.name == name);
        match (variable, as_text(value.get_ref())) {
            (Some(variable), Some(text)) => settings.push((variable.name, text, line)),
            (Some(_), None) => errors.push((
                line,
                format!("{name} must be a text, a number, true or false, or a list of texts"),
            )),
            (None, _) => {
                let hint = suggestion(name, VARIABLES.iter().map(|v| v.name.to_owned()));
                errors.push((line, format!("there is no setting named {name}{hint}")));
            }
        }
    }
    errors.sort();
    if errors.is_empty() {
        Ok(settings)
    } else {
        Err(errors)
    }
}

/// The value as it would be written in the environment; lists are joined by commas.
fn as_text(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) if number.radix() == 10 => Some(number.as_str().to_owned()),
        DeValue::Integer(number) => {
            let value = u64::from_str_radix(number.as_str(), number.radix()).ok()?;
            Some(value.to_string())
        }
        DeValue::Boolean(flag) => Some(flag.to_string()),
        DeValue::Array(items) => {
            let texts: Option<Vec<String>> =
                items.iter().map(|item| as_text(item.get_ref())).collect();
            texts.map(|texts| texts.join(","))
        }
        DeValue::Float(_) | DeValue::Datetime(_) | DeValue::Table(_) => None,
    }
}
