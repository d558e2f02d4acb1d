//! Connection strings of Postgres, in either of libpq's two forms: where their passwords are.
//!
//! Whatever cannot be read for sure is taken for a part of the password.

use std::ops::Range;

/// Parameters that nobody is to see.
const SECRETS: [&str; 2] = ["password", "sslpassword"];

/// What stands for a secret.
const REDACTED: &str = "[redacted]";

/// The connection string without its passwords.
pub(super) fn redacted(text: &str) -> String {
    match after_scheme(text) {
        Some(start) => redacted_url(text, start),
        None => redacted_pairs(text),
    }
}

/// Why libpq would read this otherwise than it was meant, if so. It holds nothing of the text.
pub(super) fn misread(text: &str) -> Option<&'static str> {
    let Some(start) = after_scheme(text) else {
        return pairs(text).1.map(|_| {
            "it holds a word without `=` or a quote that does not end; a value with spaces is put \
             in single quotes"
        });
    };
    let rest = text.get(start..).unwrap_or_default();
    let (authority, _) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let hosts = authority
        .split_once('@')
        .map_or(authority, |(_, hosts)| hosts);
    let is_read = hosts.split(',').all(|host| {
        let name_end = if host.starts_with('[') {
            host.find(']').unwrap_or_default()
        } else {
            0
        };
        let port = host.get(name_end..).and_then(|rest| rest.split_once(':'));
        !host.contains('@') && port.is_none_or(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()))
    });
    (!is_read).then_some(
        "its port is no number or there are two @; in a user's name and password `@` is written as \
         %40, `:` as %3A, `/` as %2F, `?` as %3F and `#` as %23",
    )
}

/// Where a URL goes on after its scheme; nothing if this is none.
fn after_scheme(text: &str) -> Option<usize> {
    let (scheme, _) = text.split_once("://")?;
    let is_scheme = scheme
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    is_scheme.then_some(scheme.len() + 3)
}

fn redacted_url(text: &str, start: usize) -> String {
    let (scheme, rest) = text.split_at(start);
    let authority_end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, tail) = rest.split_at(authority_end);
    // The last @ ends the user's part: a password may hold one that was not escaped.
    if let Some((user, host)) = authority.rsplit_once('@') {
        let user = user
            .split_once(':')
            .map_or(user.to_owned(), |(name, _)| format!("{name}:{REDACTED}"));
        return format!("{scheme}{user}@{host}{}", redacted_query(tail));
    }
    let tail = redacted_query(tail);
    let shown = format!("{authority}{tail}");
    // A password with a / or ? that was not escaped, or a value with an @: both begin after a colon.
    let end = match shown.rfind('@') {
        Some(at) => at,
        // The @ was a part of what is redacted already.
        None if rest.contains('@') => shown.find('?').unwrap_or(shown.len()),
        None => return format!("{scheme}{shown}"),
    };
    let (before, after) = shown.split_at(end);
    match before.split_once(':') {
        Some((name, _)) => format!("{scheme}{name}:{REDACTED}{after}"),
        None => format!("{scheme}{shown}"),
    }
}

/// The rest of a URL, from its path on. A parameter's value ends at the next `&`.
fn redacted_query(tail: &str) -> String {
    let Some((path, query)) = tail.split_once('?') else {
        return tail.to_owned();
    };
    let parameters: Vec<String> = query
        .split('&')
        .map(|parameter| match parameter.split_once('=') {
            Some((name, _)) if SECRETS.contains(&name) => format!("{name}={REDACTED}"),
            _ => parameter.to_owned(),
        })
        .collect();
    format!("{path}?{}", parameters.join("&"))
}

fn redacted_pairs(text: &str) -> String {
    let (pairs, unread) = pairs(text);
    let mut out = String::with_capacity(text.len());
    let mut copied = 0;
    for Pair { name, whole } in pairs {
        if SECRETS.contains(&name) {
            out.push_str(text.get(copied..whole.start).unwrap_or_default());
            out.push_str(&format!("{name}={REDACTED}"));
            copied = whole.end;
        }
    }
    let end = unread.unwrap_or(text.len());
    out.push_str(text.get(copied..end).unwrap_or_default());
    if unread.is_some() {
        out.push_str(REDACTED);
    }
    out
}

/// One `name = value`, and where it is.
struct Pair<'a> {
    name: &'a str,
    whole: Range<usize>,
}

/// The pairs as libpq takes them apart, and where it gives up, if it does.
fn pairs(text: &str) -> (Vec<Pair<'_>>, Option<usize>) {
    let mut found = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let start = text.len() - rest.len();
        let name_end = rest
            .find(|c: char| c == '=' || is_space(c))
            .unwrap_or(rest.len());
        let (name, after) = rest.split_at(name_end);
        let Some(value) = after.trim_start_matches(is_space).strip_prefix('=') else {
            return (found, Some(start));
        };
        let value = value.trim_start_matches(is_space);
        let Some(after) = after_value(value) else {
            return (found, Some(start));
        };
        let end = text.len() - after.len();
        found.push(Pair {
            name,
            whole: start..end,
        });
        rest = after.trim_start_matches(is_space);
    }
    (found, None)
}

/// What follows a value, which ends at a space or, if one begins it, at a single quote; nothing when
/// the quote is missing. A backslash hides the next character.
fn after_value(text: &str) -> Option<&str> {
    let (value, is_quoted) = match text.strip_prefix('\'') {
        Some(quoted) => (quoted, true),
        None => (text, false),
    };
    let mut is_hidden = false;
    for (at, c) in value.char_indices() {
        match c {
            _ if is_hidden => is_hidden = false,
            '\\' => is_hidden = true,
            '\'' if is_quoted => return value.get(at + 1..),
            c if is_space(c) && !is_quoted => return value.get(at..),
            _ => {}
        }
    }
    (!is_quoted).then_some("")
}

/// C's spaces, as libpq takes them.
fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t'..='\r')
}
