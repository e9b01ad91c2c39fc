//! JSON as Python's `json.dumps` writes it, for the filter `tojson`: models saw tools in this spelling.

use super::python::float;
use minijinja::value::{Value, ValueKind};
use minijinja::{Error, ErrorKind};
use std::borrow::Cow;
use std::fmt::Write;

/// Lists in lists that are written; Python ends in a RecursionError somewhat later.
const MAX_DEPTH: usize = 200;

/// The options of `json.dumps`.
pub(super) struct Style {
    /// What a level is indented by; without it all is on one line.
    pub(super) indent: Option<String>,
    /// Between two items.
    pub(super) comma: Cow<'static, str>,
    /// Between a key and its value.
    pub(super) colon: Cow<'static, str>,
    pub(super) ascii: bool,
    pub(super) sort_keys: bool,
}

impl Style {
    /// Without a space.
    pub(super) const DENSE: Style =
        Style { indent: None, comma: Cow::Borrowed(","), colon: Cow::Borrowed(":"), ascii: false, sort_keys: false };
}

/// `value` as JSON.
pub(super) fn to_json(value: &Value, style: &Style) -> Result<String, Error> {
    let mut out = String::new();
    push(&mut out, value, style, 0)?;
    Ok(out)
}

fn fail(what: &str) -> Error {
    Error::new(ErrorKind::BadSerialization, format!("tojson: {what}"))
}

fn push(out: &mut String, value: &Value, style: &Style, depth: usize) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(fail("the value is nested too deeply"));
    }
    match value.kind() {
        ValueKind::None => out.push_str("null"),
        ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => out.push_str(&number(value)),
        ValueKind::String => push_string(out, value.as_str().unwrap_or_default(), style.ascii),
        ValueKind::Seq | ValueKind::Iterable => {
            let items: Vec<Value> = value.try_iter()?.collect();
            out.push('[');
            push_items(out, &items, style, depth, |out, item| push(out, item, style, depth + 1))?;
            out.push(']');
        }
        ValueKind::Map => {
            let mut keys: Vec<Value> = value.try_iter()?.collect();
            if style.sort_keys {
                keys.sort();
            }
            out.push('{');
            push_items(out, &keys, style, depth, |out, key| {
                push_string(out, &key_text(key)?, style.ascii);
                out.push_str(&style.colon);
                push(out, &value.get_item(key)?, style, depth + 1)
            })?;
            out.push('}');
        }
        other => return Err(fail(&format!("{other} is not JSON serializable"))),
    }
    Ok(())
}

fn push_items(
    out: &mut String,
    items: &[Value],
    style: &Style,
    depth: usize,
    mut push: impl FnMut(&mut String, &Value) -> Result<(), Error>,
) -> Result<(), Error> {
    let line = |out: &mut String, depth: usize| {
        if let Some(indent) = &style.indent {
            out.push('\n');
            (0..depth).for_each(|_| out.push_str(indent));
        }
    };
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            out.push_str(&style.comma);
        }
        line(out, depth + 1);
        push(out, item)?;
    }
    if !items.is_empty() {
        line(out, depth);
    }
    Ok(())
}

fn number(value: &Value) -> String {
    match f64::try_from(value.clone()) {
        Ok(number) if !value.is_integer() => match number {
            _ if number.is_nan() => "NaN".to_owned(),
            _ if number.is_infinite() => if number > 0.0 { "Infinity" } else { "-Infinity" }.to_owned(),
            _ => float(number),
        },
        _ => value.to_string(),
    }
}

fn key_text(key: &Value) -> Result<String, Error> {
    match key.kind() {
        ValueKind::String => Ok(key.as_str().unwrap_or_default().to_owned()),
        ValueKind::None => Ok("null".to_owned()),
        ValueKind::Bool => Ok(if key.is_true() { "true" } else { "false" }.to_owned()),
        ValueKind::Number => Ok(number(key)),
        other => Err(fail(&format!("keys must be strings or numbers, not {other}"))),
    }
}

fn push_string(out: &mut String, text: &str, ascii: bool) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            c if c < ' ' || (ascii && c > '~') => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    // Writing to a string cannot fail.
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
            c => out.push(c),
        }
    }
    out.push('"');
}
