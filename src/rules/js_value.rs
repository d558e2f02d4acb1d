//! JavaScript's view of JSON values: `Number()`, `String()` and `==`, as the seed's rule list
//! needs them.
//!
//! Only what JSON can hold is covered, with `undefined` as `None`. Objects have no `toString` or
//! `valueOf` of their own here: in JavaScript a member of that name that is no function makes the
//! conversion throw or fall through, which no rule relies on. Everything is iterative, so that
//! deeply nested data cannot overflow the stack.

use std::borrow::Cow;
use std::cmp::Ordering;

use datalogic_rs::DataValue;

use super::conversions::Conversions;

/// `Number(value)`.
pub(super) fn to_number(value: Option<&DataValue<'_>>) -> f64 {
    match value {
        None => f64::NAN,
        Some(DataValue::Null) => 0.0,
        Some(DataValue::Bool(value)) => f64::from(u8::from(*value)),
        Some(DataValue::Number(number)) => number.as_f64(),
        Some(DataValue::String(text)) => text_to_number(text),
        Some(value @ DataValue::Array(_)) => text_to_number(&to_text(Some(value))),
        Some(DataValue::Object(_)) => f64::NAN,
    }
}

/// `String(value)`.
pub(super) fn to_text<'a>(value: Option<&DataValue<'a>>) -> Cow<'a, str> {
    match value {
        None => Cow::Borrowed("undefined"),
        Some(DataValue::Null) => Cow::Borrowed("null"),
        Some(DataValue::String(text)) => Cow::Borrowed(text),
        Some(DataValue::Array(items)) => Cow::Owned(join(items)),
        Some(scalar) => {
            let mut text = String::new();
            push_scalar(&mut text, scalar);
            Cow::Owned(text)
        }
    }
}

/// The right side of a comparison, converted once.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Constant {
    pub(super) kind: Kind,
    /// `Number(constant)`.
    pub(super) number: f64,
    /// `String(constant)`.
    pub(super) text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// `undefined` or null, which equal each other only.
    Nothing,
    Text,
    /// A list or an object.
    Collection,
    /// A number or a boolean.
    Scalar,
}

impl Constant {
    pub(super) fn new(value: Option<&DataValue<'_>>) -> Self {
        Constant {
            kind: match value {
                None | Some(DataValue::Null) => Kind::Nothing,
                Some(DataValue::String(_)) => Kind::Text,
                Some(DataValue::Array(_) | DataValue::Object(_)) => Kind::Collection,
                Some(DataValue::Number(_) | DataValue::Bool(_)) => Kind::Scalar,
            },
            number: to_number(value),
            text: to_text(value).into_owned(),
        }
    }

    /// `left == constant`, where neither is the other's identity: two objects are never equal.
    pub(super) fn loosely_equals(&self, left: &DataValue<'_>, conversions: &Conversions) -> bool {
        match (left, self.kind) {
            (DataValue::Null, kind) => kind == Kind::Nothing,
            (_, Kind::Nothing) => false,
            (DataValue::Array(_) | DataValue::Object(_), Kind::Collection) => false,
            // An object becomes its text first, and two texts are compared as such.
            (DataValue::String(left), Kind::Text | Kind::Collection) => *left == self.text,
            (DataValue::Array(_) | DataValue::Object(_), Kind::Text) => {
                conversions.js_text(left, |left| left == self.text)
            }
            // Whatever remains has a number or a boolean on one side and is compared as numbers.
            // An object's number is that of its text, which `to_number` already does. NaN equals
            // nothing.
            _ => conversions.js_number(left) == self.number,
        }
    }
}

/// The order of two texts by UTF-16 code units, as JavaScript's `<` has it.
pub(super) fn compare_code_units(left: &str, right: &str) -> Ordering {
    left.encode_utf16().cmp(right.encode_utf16())
}

/// `Array.prototype.join(",")`, nested arrays included, null elements empty.
fn join(items: &[DataValue<'_>]) -> String {
    let mut text = String::new();
    let mut open = vec![items.iter().enumerate()];
    while let Some(elements) = open.last_mut() {
        let Some((index, element)) = elements.next() else {
            open.pop();
            continue;
        };
        if index > 0 {
            text.push(',');
        }
        match element {
            DataValue::Null => {}
            DataValue::String(element) => text.push_str(element),
            DataValue::Array(nested) => open.push(nested.iter().enumerate()),
            scalar => push_scalar(&mut text, scalar),
        }
    }
    text
}

fn push_scalar(text: &mut String, scalar: &DataValue<'_>) {
    match scalar {
        DataValue::Bool(true) => text.push_str("true"),
        DataValue::Bool(false) => text.push_str("false"),
        DataValue::Number(number) => text.push_str(&number_to_text(number.as_f64())),
        DataValue::Object(_) => text.push_str("[object Object]"),
        // The callers have taken these apart already.
        DataValue::Null | DataValue::String(_) | DataValue::Array(_) => {}
    }
}

/// `Number.prototype.toString()`: the shortest digits that read back as the same number, laid out
/// by ECMA-262's rules.
fn number_to_text(number: f64) -> String {
    if number.is_nan() {
        return "NaN".to_owned();
    }
    if number == 0.0 {
        return "0".to_owned();
    }
    let sign = if number < 0.0 { "-" } else { "" };
    if number.is_infinite() {
        return format!("{sign}Infinity");
    }
    // Rust writes the shortest digits as well, in the form `d.ddde±x`.
    let scientific = format!("{:e}", number.abs());
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let digits = mantissa.replace('.', "");
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let count = i32::try_from(digits.len()).unwrap_or(i32::MAX);
    // ECMA-262 calls this n: where the decimal point stands, counted from the first digit.
    let point = exponent + 1;
    let zeros = |count: i32| "0".repeat(usize::try_from(count).unwrap_or(0));
    if count <= point && point <= 21 {
        return format!("{sign}{digits}{}", zeros(point - count));
    }
    if 0 < point && point <= 21 {
        let (whole, fraction) = digits.split_at(usize::try_from(point).unwrap_or(0));
        return format!("{sign}{whole}.{fraction}");
    }
    if -6 < point && point <= 0 {
        return format!("{sign}0.{}{digits}", zeros(-point));
    }
    let exponent_sign = if exponent < 0 { '-' } else { '+' };
    let (first, rest) = digits.split_at(1);
    let dot = if rest.is_empty() { "" } else { "." };
    format!(
        "{sign}{first}{dot}{rest}e{exponent_sign}{}",
        exponent.unsigned_abs()
    )
}

/// `Number("…")`: ECMA-262's StringNumericLiteral.
fn text_to_number(text: &str) -> f64 {
    let text = text.trim_matches(is_js_space);
    if text.is_empty() {
        return 0.0;
    }
    let prefix = text.get(..2).unwrap_or_default();
    let radix = match prefix {
        "0x" | "0X" => Some(16),
        "0o" | "0O" => Some(8),
        "0b" | "0B" => Some(2),
        _ => None,
    };
    if let Some(radix) = radix {
        return text
            .get(2..)
            .map_or(f64::NAN, |digits| whole(digits, radix));
    }
    let (negative, unsigned) = match text.strip_prefix(['+', '-']) {
        Some(unsigned) => (text.starts_with('-'), unsigned),
        None => (false, text),
    };
    let magnitude = if unsigned == "Infinity" {
        f64::INFINITY
    } else if is_decimal(unsigned) {
        unsigned.parse().unwrap_or(f64::NAN)
    } else {
        f64::NAN
    };
    if negative { -magnitude } else { magnitude }
}

/// White space and line ends as ECMA-262 lists them: Unicode's, without U+0085 and with the
/// byte-order mark.
fn is_js_space(c: char) -> bool {
    c == '\u{feff}' || (c.is_whitespace() && c != '\u{85}')
}

/// `StrUnsignedDecimalLiteral` without `Infinity`. Rust's own parser accepts more (`inf`, `nan`).
fn is_decimal(text: &str) -> bool {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (text, None),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let mantissa_ok =
        !(whole.is_empty() && fraction.is_empty()) && all_digits(whole) && all_digits(fraction);
    let exponent_ok = exponent.is_none_or(|exponent| {
        let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        !digits.is_empty() && all_digits(digits)
    });
    mantissa_ok && exponent_ok
}

/// Digits of a power of two, rounded once as the standard asks. Beyond 128 bits the bits that
/// fall off the end are kept as one sticky bit, which decides the rounding just as well.
fn whole(digits: &str, radix: u32) -> f64 {
    if digits.is_empty() {
        return f64::NAN;
    }
    let bits = radix.trailing_zeros();
    let (mut value, mut dropped_bits) = (0_u128, 0_i32);
    for c in digits.chars() {
        let Some(digit) = c.to_digit(radix) else {
            return f64::NAN;
        };
        if value.leading_zeros() >= bits && dropped_bits == 0 {
            value = (value << bits) | u128::from(digit);
        } else {
            value |= u128::from(digit != 0);
            dropped_bits = dropped_bits.saturating_add_unsigned(bits);
        }
    }
    value as f64 * 2_f64.powi(dropped_bits)
}

#[cfg(test)]
mod tests {
    use datalogic_rs::bumpalo::Bump;

    use super::*;
    use crate::rules::FactsArena;

    #[test]
    fn numbers_are_written_as_javascript_writes_them() {
        let cases = [
            (0.0, "0"),
            (-0.0, "0"),
            (1e21, "1e+21"),
            (123_456_789_012_345_680_000.0, "123456789012345680000"),
            (1.5e300, "1.5e+300"),
            (1e-6, "0.000001"),
            (1e-7, "1e-7"),
            (1.25e-7, "1.25e-7"),
            (-12.5, "-12.5"),
            (0.1, "0.1"),
            (5e-324, "5e-324"),
            (100.0, "100"),
            (f64::INFINITY, "Infinity"),
        ];
        for (number, text) in cases {
            assert_eq!(number_to_text(number), text);
        }
    }

    #[test]
    fn texts_are_read_as_javascript_reads_them() {
        let cases = [
            ("", 0.0),
            ("\u{feff}\u{a0} 12 \u{2029}", 12.0),
            ("0x10", 16.0),
            ("0B101", 5.0),
            ("0o17", 15.0),
            (".5", 0.5),
            ("5.", 5.0),
            ("+1e3", 1_000.0),
            ("-Infinity", f64::NEG_INFINITY),
            ("1e999", f64::INFINITY),
            ("0x1fffffffffffffffffffffffffffffffff", 2_f64.powi(133)),
        ];
        for (text, number) in cases {
            assert_eq!(text_to_number(text), number, "{text:?}");
        }
        for text in [
            "inf", "nan", "5px", "-0x10", "1_000", ".", "e5", "1e", "0x", "\u{85}1", "+",
        ] {
            assert!(text_to_number(text).is_nan(), "{text:?}");
        }
    }

    #[test]
    fn arrays_are_joined_however_deep_they_are() {
        let arena = FactsArena::new();
        let object = arena.parse(r#"{"nested": [1, [2, [null, "x"]], {}], "empty": [[], []]}"#);
        assert_eq!(to_text(object.get("nested")), "1,2,,x,[object Object]");
        assert_eq!(to_text(object.get("empty")), ",");
        let bump = Bump::new();
        let mut deep = DataValue::from_i64(7);
        for _ in 0..10_000 {
            deep = DataValue::Array(bump.alloc_slice_copy(&[deep]));
        }
        assert_eq!(to_number(Some(&deep)), 7.0);
    }

    #[test]
    fn texts_are_ordered_by_code_units() {
        // By code points it would be the other way round.
        assert_eq!(compare_code_units("\u{1f600}", "\u{ffff}"), Ordering::Less);
    }
}
