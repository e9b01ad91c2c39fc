//! Values of a request's fields; errors name the field that is wrong.

use crate::error::{Error, Result};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::fmt::Display;

/// The error that field `at` is wrong; `what` says how.
pub(super) fn wrong(at: impl Display, what: impl Display) -> Error {
    Error::invalid_request(format!("{at}: {what}")).in_field(at.to_string())
}

/// Refuses what cannot be honoured, unless `neutral` says that it asks for what is done anyway.
pub(super) fn only_if(neutral: bool, at: &str, what: &str) -> Result<()> {
    if neutral { Ok(()) } else { Err(wrong(at, what)) }
}

/// A count; one beyond this machine's numbers is the largest of them. JavaScript writes whole numbers as `100.0`, too.
pub(super) fn count(value: &Value, at: impl Display) -> Result<usize> {
    if let Some(n) = value.as_u64() {
        return Ok(usize::try_from(n).unwrap_or(usize::MAX));
    }
    // The cast saturates.
    let whole = value.as_f64().filter(|n| n.fract() == 0.0 && *n >= 0.0);
    whole.map(|n| n as usize).ok_or_else(|| wrong(at, "must be a whole number from 0 on"))
}

/// A whole number with a sign.
pub(super) fn integer(value: &Value, at: impl Display) -> Result<i64> {
    let whole = value.as_f64().filter(|n| n.fract() == 0.0);
    value.as_i64().or(whole.map(|n| n as i64)).ok_or_else(|| wrong(at, "must be a whole number"))
}

/// A number; its range is the sampler's business.
pub(super) fn number(value: &Value, at: impl Display) -> Result<f32> {
    value.as_f64().map(|n| n as f32).ok_or_else(|| wrong(at, "must be a number"))
}

pub(super) fn flag(value: &Value, at: impl Display) -> Result<bool> {
    value.as_bool().ok_or_else(|| wrong(at, "must be true or false"))
}

pub(super) fn text(value: &Value, at: impl Display) -> Result<&str> {
    value.as_str().ok_or_else(|| wrong(at, "must be text"))
}

/// What [`str::parse`] makes of a text.
pub(super) fn parsed<T: std::str::FromStr<Err = Error>>(value: &Value, at: &str) -> Result<T> {
    text(value, at)?.parse().map_err(|e: Error| wrong(at, e))
}

pub(super) fn object(value: &Value, at: impl Display) -> Result<&Map<String, Value>> {
    value.as_object().ok_or_else(|| wrong(at, "must be an object"))
}

/// The elements of a list that has some, with the place of each.
pub(super) fn list<'a>(value: &'a Value, at: &str) -> Result<impl Iterator<Item = (&'a Value, String)>> {
    let list = value.as_array().ok_or_else(|| wrong(at, "must be a list"))?;
    only_if(!list.is_empty(), at, "the list is empty")?;
    Ok(list.iter().enumerate().map(move |(i, element)| (element, format!("{at}[{i}]"))))
}

/// A token number.
pub(super) fn token(value: &Value, at: impl Display + Copy) -> Result<u32> {
    u32::try_from(count(value, at)?).map_err(|_| wrong(at, "must be the number of a token"))
}

/// The JSON of a request.
pub(super) fn json_of(json: &str) -> Result<Value> {
    serde_json::from_str(&whole_characters(json))
        .map_err(|e| Error::invalid_request(format!("the request is no JSON: {e}")).caused_by(e))
}

/// The same JSON with U+FFFD for halves of surrogate pairs: JavaScript and Python write a text that was cut inside an emoji as
/// `"\ud83d"`, which stands for no text in UTF-8.
pub fn whole_characters(json: &str) -> Cow<'_, str> {
    let unit = |at: usize| json.get(at..at + 6).and_then(|e| u16::from_str_radix(e.strip_prefix("\\u")?, 16).ok());
    let (mut halves, mut at) = (Vec::new(), 0);
    while let Some(next) = json.get(at..).and_then(|rest| rest.find('\\')) {
        at += next;
        at += match (unit(at), unit(at + 6)) {
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => 12,
            (Some(0xd800..=0xdfff), _) => {
                halves.push(at);
                6
            }
            // Also `\\`, whose second half escapes nothing.
            _ => 2,
        };
    }
    let mut json = Cow::Borrowed(json);
    halves.into_iter().for_each(|at| json.to_mut().replace_range(at..at + 6, "\\ufffd"));
    json
}
