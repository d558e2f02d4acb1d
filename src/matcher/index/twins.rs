//! What tests compare the index with.

use datalogic_rs::DataValue;

use crate::rules::native::{Class, Domain, is_numeric_text};

/// Whether a condition with this domain can hold for a value.
pub(super) fn may_hold(domain: &Domain<'_>, value: Option<&DataValue<'_>>) -> bool {
    let yes = &domain.yes;
    match value {
        None => yes.has(Class::Missing),
        Some(DataValue::Null) => yes.has(Class::Null),
        Some(DataValue::Bool(false)) => yes.has(Class::False),
        Some(DataValue::Bool(true)) => yes.has(Class::True),
        Some(DataValue::Array(_) | DataValue::Object(_)) => yes.has(Class::Collection),
        Some(DataValue::Number(number)) => yes.numbers.contains(number.as_f64()),
        Some(DataValue::String(text)) => {
            yes.texts.others != yes.texts.listed.contains(text)
                || (domain.open.numeric_texts && is_numeric_text(text))
        }
    }
}

/// Whether it has to be tried for the value.
pub(super) fn is_open(domain: &Domain<'_>, value: Option<&DataValue<'_>>) -> bool {
    let open = domain.open;
    match value {
        Some(DataValue::Number(_)) => open.numbers,
        Some(DataValue::String(text)) => {
            open.texts || (open.numeric_texts && is_numeric_text(text))
        }
        Some(DataValue::Array(_) | DataValue::Object(_)) => open.collections,
        _ => false,
    }
}

/// Numbers below a bound; the same for a seed.
pub(super) fn random(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut state = seed;
    move |below| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    }
}
