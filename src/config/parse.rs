//! One function a kind of value: from text to the value, or what is wrong with it.
//!
//! The reasons never repeat the value of a secret.

use std::path::PathBuf;

use chrono::DateTime;

use super::{CorsOrigins, LogFormat, MetricsSetting, Mode, connection};

/// The shortest key outside the demo, in characters.
const KEY_CHARS_MIN: usize = 16;

/// The longest key, in characters.
const KEY_CHARS_MAX: usize = 200;

pub(super) fn address(text: &str) -> Result<String, String> {
    let problem = || format!("`{text}` is not HOST:PORT, as in 127.0.0.1:8080");
    let (host, port) = text.rsplit_once(':').ok_or_else(problem)?;
    port.parse::<u16>().map_err(|_| problem())?;
    let bracketed = host.starts_with('[') && host.ends_with(']');
    if host.is_empty() || (host.contains(':') && !bracketed) || host.contains(char::is_whitespace) {
        return Err(problem());
    }
    Ok(text.to_owned())
}

pub(super) fn optional_address(text: &str) -> Result<Option<String>, String> {
    (!text.is_empty()).then(|| address(text)).transpose()
}

pub(super) fn optional_path(text: &str) -> Result<Option<PathBuf>, String> {
    Ok((!text.is_empty()).then(|| PathBuf::from(text)))
}

pub(super) fn database_url(text: &str) -> Result<Option<String>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let is_url = text.starts_with("postgres://") || text.starts_with("postgresql://");
    let is_pairs = !text.contains("://") && text.contains('=');
    if !is_url && !is_pairs {
        return Err(
            "it is neither a URL (postgres://user:password@host:5432/database) nor a libpq \
             connection string (host=… dbname=…)"
                .to_owned(),
        );
    }
    // libpq would say what it took for a host or a name, which is a piece of the password.
    match connection::misread(text) {
        Some(reason) => Err(reason.to_owned()),
        None => Ok(Some(text.to_owned())),
    }
}

pub(super) fn key(text: &str, mode: Mode) -> Result<Option<String>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("a key is made of printable ASCII characters without spaces".to_owned());
    }
    if text.contains(':') {
        return Err("a key must not contain a colon, which HTTP Basic would cut it at".to_owned());
    }
    if mode == Mode::Normal && text.len() < KEY_CHARS_MIN {
        return Err(format!(
            "a key needs at least {KEY_CHARS_MIN} characters (shorter ones work in the demo only)"
        ));
    }
    if text.len() > KEY_CHARS_MAX {
        return Err(format!("a key has at most {KEY_CHARS_MAX} characters"));
    }
    Ok(Some(text.to_owned()))
}

pub(super) fn log_filter(text: &str) -> Result<String, String> {
    tracing_subscriber::EnvFilter::builder()
        .parse(text)
        .map(|_| text.to_owned())
        .map_err(|error| format!("`{text}` is no log filter: {error}"))
}

pub(super) fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "auto" => Ok(LogFormat::Auto),
        "json" => Ok(LogFormat::Json),
        "text" => Ok(LogFormat::Text),
        _ => Err(format!("`{text}` is none of auto, json and text")),
    }
}

pub(super) fn metrics(text: &str) -> Result<MetricsSetting, String> {
    match text {
        "key" => Ok(MetricsSetting::Key),
        "public" => Ok(MetricsSetting::Public),
        "off" => Ok(MetricsSetting::Off),
        _ => Err(format!("`{text}` is none of key, public and off")),
    }
}

pub(super) fn switch(text: &str) -> Result<bool, String> {
    match text {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err(format!("`{text}` is neither true nor false")),
    }
}

pub(super) fn number<T: TryFrom<u64>>(text: &str, least: u64, most: u64) -> Result<T, String> {
    let plain = text.replace('_', "");
    within(
        plain.parse::<u64>().ok(),
        text,
        "a whole number",
        least,
        most,
    )
}

/// `None` is `auto`.
pub(super) fn auto_or<T>(
    text: &str,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Result<Option<T>, String> {
    match text {
        "auto" => Ok(None),
        text => parse(text).map(Some),
    }
}

pub(super) fn bytes<T: TryFrom<u64>>(text: &str, least: u64, most: u64) -> Result<T, String> {
    let split = text
        .find(|c: char| !c.is_ascii_digit() && c != '_')
        .unwrap_or(text.len());
    let (digits, unit) = text.split_at(split);
    let factor = match unit.trim() {
        "" | "B" => Some(1),
        "KiB" | "K" => Some(1 << 10),
        "MiB" | "M" => Some(1 << 20),
        "GiB" | "G" => Some(1 << 30),
        _ => None,
    };
    let value = digits
        .replace('_', "")
        .parse::<u64>()
        .ok()
        .zip(factor)
        .and_then(|(number, factor)| number.checked_mul(factor));
    within(value, text, "a size such as 65536 or 8MiB", least, most)
}

fn within<T: TryFrom<u64>>(
    value: Option<u64>,
    text: &str,
    shape: &str,
    least: u64,
    most: u64,
) -> Result<T, String> {
    let value = value.ok_or_else(|| format!("`{text}` is not {shape}"))?;
    if !(least..=most).contains(&value) {
        return Err(format!("{text} is out of range: {least} to {most}"));
    }
    T::try_from(value).map_err(|_| format!("{text} is too large for this machine"))
}

pub(super) fn origins(text: &str) -> Result<CorsOrigins, String> {
    if text == "*" {
        return Ok(CorsOrigins::All);
    }
    let mut origins = Vec::new();
    for origin in text.split(',').map(str::trim).filter(|o| !o.is_empty()) {
        let host = origin
            .strip_prefix("https://")
            .or_else(|| origin.strip_prefix("http://"));
        match host {
            Some(host) if !host.is_empty() && !host.contains(['/', '*', '?', '#', ' ']) => {
                origins.push(origin.to_ascii_lowercase());
            }
            _ => {
                return Err(format!(
                    "`{origin}` is no origin, as in https://app.example.com (no path, no wildcard)"
                ));
            }
        }
    }
    Ok(CorsOrigins::Listed(origins))
}

/// The schedule with its seconds, which may be left out.
pub(super) fn cron(text: &str) -> Result<String, String> {
    let full = match text.split_whitespace().count() {
        5 => format!("0 {text}"),
        _ => text.to_owned(),
    };
    let problem = |reason: &str| format!("`{text}` is no schedule, as in `0 17 3 * * *`: {reason}");
    let mut fields: Vec<String> = full.split_whitespace().map(str::to_owned).collect();
    // The library would read on across the space, and the places of the fields would not be known.
    let joins = [',', '-', '/'];
    if fields
        .iter()
        .any(|f| f.starts_with(joins) || f.ends_with(joins))
    {
        return Err(problem("a field has no spaces inside"));
    }
    if let Some(weekdays) = fields.get_mut(5) {
        *weekdays = named_weekdays(weekdays).map_err(|reason| problem(&reason))?;
    }
    // The library takes whatever years it can, and one that is over comes to nobody's notice.
    if fields.get(6).is_some_and(|year| year != "*") {
        return Err(problem(
            "a schedule comes every year, so the year is left out",
        ));
    }
    let full = fields.join(" ");
    let schedule = full.parse::<cron::Schedule>().map_err(|error| {
        let reason = error.to_string();
        problem(reason.lines().last().unwrap_or_default())
    })?;
    if schedule.after(&DateTime::UNIX_EPOCH).next().is_none() {
        return Err(format!("`{text}` never comes: there is no such day"));
    }
    Ok(full)
}

/// Days of the week as cron counts them (0 and 7 are Sunday) by their names, since the library
/// begins with 1 for Sunday.
fn named_weekdays(field: &str) -> Result<String, String> {
    let items: Result<Vec<String>, String> = field.split(',').map(named_weekday).collect();
    Ok(items?.join(","))
}

fn named_weekday(item: &str) -> Result<String, String> {
    let (days, step) = match item.split_once('/') {
        Some((days, step)) => (days, Some(step)),
        None => (item, None),
    };
    if !days.starts_with(|c: char| c.is_ascii_digit()) {
        return Ok(item.to_owned());
    }
    let day = |text: &str| match text.parse::<u8>() {
        Ok(day @ 0..=7) => Ok(day),
        _ => Err(format!(
            "`{text}` is no day of the week, from 0 (Sunday) to 6, or 7 (Sunday too)"
        )),
    };
    let (first, last) = match (days.split_once('-'), step) {
        (Some((first, last)), _) => (day(first)?, day(last)?),
        (None, Some(_)) => (day(days)?, 6.max(day(days)?)),
        (None, None) => (day(days)?, day(days)?),
    };
    let step: usize = step.unwrap_or("1").parse().unwrap_or_default();
    if step == 0 || first > last {
        return Err(format!("`{item}` names no day of the week"));
    }
    let names = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
    let days: Vec<&str> = (0_u8..)
        .zip(names)
        .filter(|(day, _)| (first..=last).contains(day))
        .map(|(_, name)| name)
        .step_by(step)
        .collect();
    Ok(days.join(","))
}

/// A hint at a name that was perhaps meant, or nothing.
pub(super) fn suggestion(name: &str, known: impl Iterator<Item = String>) -> String {
    known
        .map(|candidate| (distance(name, &candidate), candidate))
        .filter(|(distance, _)| *distance <= 3)
        .min()
        .map_or_else(String::new, |(_, candidate)| {
            format!(" (did you mean {candidate}?)")
        })
}

/// How many letters have to be added, taken or changed to make one name of the other.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.chars().take(100).enumerate() {
        let mut diagonal = i;
        let mut last = i + 1;
        for (b, cell) in right.iter().zip(row.iter_mut().skip(1)) {
            let changed = diagonal + usize::from(a != *b);
            diagonal = *cell;
            *cell = changed.min(*cell + 1).min(last + 1);
            last = *cell;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}
