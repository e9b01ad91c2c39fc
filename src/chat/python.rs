//! Python's spelling of values, its arguments, and the methods of its types. (minijinja-contrib has half of these, without
//! their keywords and ranges; having both made the WASM files larger.)

use minijinja::formatting::{FormatStyle, format};
use minijinja::value::{Kwargs, Tuple, Value, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State};
use unicode_general_category::{GeneralCategory, get_general_category};

/// Lists in lists that are written out.
const MAX_DEPTH: usize = 200;

/// A floating-point number as Python's `repr` writes it.
pub(super) fn float(x: f64) -> String {
    if x.is_nan() {
        return "nan".to_owned();
    }
    let scientific = format!("{x:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else { return scientific };
    match exponent.parse::<i32>() {
        Ok(exponent) if !(-4..16).contains(&exponent) => {
            format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
        }
        _ => format!("{x:?}"),
    }
}

/// Python's `str(value)`.
pub(super) fn text(value: &Value) -> String {
    if value.kind() == ValueKind::String { value.to_string() } else { repr(value) }
}

/// Python's `repr(value)`.
pub(super) fn repr(value: &Value) -> String {
    let mut out = String::new();
    push_repr(&mut out, value, 0);
    out
}

fn push_repr(out: &mut String, value: &Value, depth: usize) {
    let list = |out: &mut String, open: &str, close: &str| {
        out.push_str(open);
        for (i, item) in value.try_iter().into_iter().flatten().enumerate() {
            out.push_str(if i > 0 { ", " } else { "" });
            push_repr(out, &item, depth + 1);
            if value.kind() == ValueKind::Map {
                out.push_str(": ");
                push_repr(out, &value.get_item(&item).unwrap_or_default(), depth + 1);
            }
        }
        out.push_str(close);
    };
    match value.kind() {
        _ if depth > MAX_DEPTH => out.push_str("..."),
        ValueKind::Number if !value.is_integer() => {
            out.push_str(&f64::try_from(value.clone()).map_or_else(|_| value.to_string(), float));
        }
        ValueKind::Seq if value.is_tuple() => list(out, "(", if value.len() == Some(1) { ",)" } else { ")" }),
        ValueKind::Seq | ValueKind::Iterable => list(out, "[", "]"),
        ValueKind::Map => list(out, "{", "}"),
        ValueKind::String => out.push_str(&format!("{value:?}")),
        ValueKind::Undefined if depth > 0 => out.push_str("Undefined"),
        _ => out.push_str(&value.to_string()),
    }
}

/// The arguments of a call by the names of the parameters, as Python binds them. None is as good as absent.
pub(super) fn bind<const N: usize>(args: &[Value], names: [&str; N]) -> Result<[Option<Value>; N], Error> {
    let mut bound = [const { None }; N];
    bind_slots(args, &names, &mut bound)?;
    Ok(bound)
}

fn bind_slots(args: &[Value], names: &[&str], slots: &mut [Option<Value>]) -> Result<(), Error> {
    let (positional, named): (&[Value], Kwargs) = from_args(args)?;
    if positional.len() > names.len() {
        return Err(Error::from(ErrorKind::TooManyArguments));
    }
    for (i, (name, slot)) in names.iter().zip(slots).enumerate() {
        let value = match positional.get(i) {
            Some(value) => Some(value.clone()),
            None => named.get::<Option<Value>>(name)?,
        };
        *slot = value.filter(|value| !value.is_none());
    }
    named.assert_all_used()
}

/// The argument as a number, which is an integer in Python.
pub(super) fn integer(value: &Option<Value>) -> Result<Option<i64>, Error> {
    value.clone().map(i64::try_from).transpose()
}

/// The argument as a string.
pub(super) fn string(value: &Option<Value>) -> Result<Option<&str>, Error> {
    let wrong = |value: &Value| {
        Error::new(ErrorKind::InvalidOperation, format!("an argument is of type {}, not a string", value.kind()))
    };
    value.as_ref().map(|value| value.as_str().ok_or_else(|| wrong(value))).transpose()
}

pub(super) fn missing() -> Error {
    Error::from(ErrorKind::MissingArgument)
}

/// The characters that Python counts as white space.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// What minijinja calls for methods of values.
pub(super) fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    let done = match value.kind() {
        ValueKind::String => string_method(state, value.as_str().unwrap_or_default(), name, args)?,
        ValueKind::Seq => list_method(value, name, args)?,
        ValueKind::Map => map_method(value, name, args)?,
        ValueKind::Number if name == "is_integer" && args.is_empty() => {
            Some(f64::try_from(value.clone()).is_ok_and(|x| x.fract() == 0.0).into())
        }
        _ => None,
    };
    done.ok_or_else(|| Error::from(ErrorKind::UnknownMethod))
}

fn map_method(map: &Value, name: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    let Some(object) = map.as_object().cloned() else { return Ok(None) };
    Ok(Some(match name {
        "get" => {
            let [key, default] = bind(args, ["key", "default"])?;
            object.get_value(&key.unwrap_or_default()).or(default).unwrap_or_else(|| ().into())
        }
        "copy" if args.is_empty() => map.clone(),
        "keys" if args.is_empty() => {
            Value::make_object_iterable(object, |map| map.try_iter().unwrap_or_else(|| Box::new([].into_iter())))
        }
        "values" | "items" if args.is_empty() => {
            let values = name == "values";
            Value::make_object_iterable(object, move |map| {
                // With its length, which `loop.last` needs.
                match map.try_iter_pairs() {
                    Some(pairs) => {
                        let pick = move |(key, value)| if values { value } else { Tuple::from([key, value]).into() };
                        Box::new(pairs.map(pick))
                    }
                    None => Box::new([].into_iter()),
                }
            })
        }
        _ => return Ok(None),
    }))
}

fn list_method(list: &Value, name: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    match name {
        "index" => {
            let [wanted] = bind(args, ["value"])?;
            let wanted = wanted.unwrap_or_default();
            match list.try_iter()?.position(|item| item == wanted) {
                Some(at) => Ok(Some(at.into())),
                None => Err(Error::new(ErrorKind::InvalidOperation, format!("{wanted:?} is not in the list"))),
            }
        }
        "count" => {
            let [wanted] = bind(args, ["value"])?;
            let wanted = wanted.unwrap_or_default();
            Ok(Some(list.try_iter()?.filter(|item| *item == wanted).count().into()))
        }
        "copy" if args.is_empty() && !list.is_tuple() => Ok(Some(list.clone())),
        _ => Ok(None),
    }
}

/// `s` from the character `start` to `end`, which may count from its end, with the number of characters in front of it;
/// nothing where `start` is behind the end of `s`.
fn window(s: &str, start: Option<i64>, end: Option<i64>) -> Option<(usize, &str)> {
    let length = s.chars().count() as i64;
    let clamp = |at: i64| if at < 0 { (length.saturating_add(at)).max(0) } else { at.min(length) };
    if start.is_some_and(|start| start > length) {
        return None;
    }
    let (start, end) = (clamp(start.unwrap_or(0)), clamp(end.unwrap_or(length)));
    let byte = |at: i64| s.char_indices().nth(at as usize).map_or(s.len(), |(byte, _)| byte);
    s.get(byte(start)..byte(end)).map(|window| (start as usize, window))
}

fn string_method(state: &State, s: &str, name: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    Ok(Some(match name {
        "strip" | "lstrip" | "rstrip" => {
            let [chars] = bind(args, ["chars"])?;
            let chars = string(&chars)?;
            let strips = |c: char| chars.map_or_else(|| is_space(c), |chars| chars.contains(c));
            let s = if name == "rstrip" { s } else { s.trim_start_matches(strips) };
            if name == "lstrip" { s } else { s.trim_end_matches(strips) }.into()
        }
        "split" | "rsplit" => {
            let [separator, most] = bind(args, ["sep", "maxsplit"])?;
            let most = integer(&most)?.and_then(|most| usize::try_from(most).ok());
            split(s, string(&separator)?, most.unwrap_or(usize::MAX), name == "rsplit")?
        }
        "splitlines" => {
            let [keep] = bind(args, ["keepends"])?;
            lines(s, keep.is_some_and(|keep| keep.is_true()))
        }
        "partition" | "rpartition" => {
            let [separator] = bind(args, ["sep"])?;
            let separator = string(&separator)?.filter(|s| !s.is_empty()).ok_or_else(empty_separator)?;
            let parts = if name == "partition" { s.split_once(separator) } else { s.rsplit_once(separator) };
            let parts = match parts {
                Some((before, after)) => [before, separator, after],
                None if name == "partition" => [s, "", ""],
                None => ["", "", s],
            };
            Value::from(Tuple::from(parts.map(Value::from)))
        }
        "removeprefix" | "removesuffix" => {
            let [affix] = bind(args, ["affix"])?;
            let affix = string(&affix)?.ok_or_else(missing)?;
            let rest = if name == "removeprefix" { s.strip_prefix(affix) } else { s.strip_suffix(affix) };
            rest.unwrap_or(s).into()
        }
        "startswith" | "endswith" => {
            let [affixes, start, end] = bind(args, ["affix", "start", "end"])?;
            let affixes = affixes.ok_or_else(missing)?;
            let Some((_, s)) = window(s, integer(&start)?, integer(&end)?) else { return Ok(Some(false.into())) };
            let affixes = if affixes.is_tuple() { affixes.try_iter()?.collect() } else { vec![affixes] };
            let mut found = false;
            for affix in affixes {
                let affix = Some(affix);
                let affix = string(&affix)?.unwrap_or_default();
                found |= if name == "startswith" { s.starts_with(affix) } else { s.ends_with(affix) };
            }
            found.into()
        }
        "find" | "rfind" | "index" | "rindex" | "count" => {
            let [wanted, start, end] = bind(args, ["sub", "start", "end"])?;
            let wanted = string(&wanted)?.ok_or_else(missing)?;
            let window = window(s, integer(&start)?, integer(&end)?);
            if name == "count" {
                return Ok(Some(window.map_or(0, |(_, s)| s.matches(wanted).count()).into()));
            }
            let found = window.and_then(|(before, s)| {
                let at = if name.starts_with('r') { s.rfind(wanted) } else { s.find(wanted) }?;
                Some(before + s.get(..at)?.chars().count())
            });
            match found {
                Some(at) => at.into(),
                None if name.ends_with("find") => (-1).into(),
                None => return Err(Error::new(ErrorKind::InvalidOperation, "substring not found")),
            }
        }
        "ljust" | "rjust" | "center" | "zfill" => {
            let [width, fill] = bind(args, ["width", "fillchar"])?;
            let width = usize::try_from(integer(&width)?.ok_or_else(missing)?).unwrap_or(0);
            let fill = string(&fill)?.unwrap_or(if name == "zfill" { "0" } else { " " });
            pad(state, s, width, fill, name)?.into()
        }
        "replace" => {
            let [old, new, count] = bind(args, ["old", "new", "count"])?;
            let (old, new) = (string(&old)?.ok_or_else(missing)?, string(&new)?.ok_or_else(missing)?);
            let count = integer(&count)?.and_then(|count| usize::try_from(count).ok()).unwrap_or(usize::MAX);
            let most = count.min(s.len() / old.len().max(1) + 1);
            state.consume_fuel((most.saturating_mul(new.len().saturating_sub(old.len())) / 64) as u64)?;
            s.replacen(old, new, count).into()
        }
        "join" => {
            let [items] = bind(args, ["iterable"])?;
            let mut out = String::new();
            for (i, item) in items.ok_or_else(missing)?.try_iter()?.enumerate() {
                state.consume_fuel(1 + (s.len() / 64) as u64)?;
                out.push_str(if i > 0 { s } else { "" });
                out.push_str(string(&Some(item))?.unwrap_or_default());
            }
            out.into()
        }
        "expandtabs" => {
            let [size] = bind(args, ["tabsize"])?;
            expand_tabs(state, s, usize::try_from(integer(&size)?.unwrap_or(8)).unwrap_or(0))?.into()
        }
        "format" => format(FormatStyle::StrFormat, s, args)?.into(),
        _ if !args.is_empty() => return Ok(None),
        "upper" => s.to_uppercase().into(),
        "lower" => s.to_lowercase().into(),
        "capitalize" => {
            let mut chars = s.chars();
            let first = chars.next().map(|c| minijinja::filters::title(c.to_string().into())).unwrap_or_default();
            // A sigma at the end of a word depends on what is in front of it.
            let skipped: usize = s.chars().take(1).flat_map(char::to_lowercase).map(char::len_utf8).sum();
            [first.as_str(), s.to_lowercase().get(skipped..).unwrap_or_default()].concat().into()
        }
        "islower" => (s.chars().any(char::is_lowercase) && !s.chars().any(char::is_uppercase)).into(),
        "isupper" => (s.chars().any(char::is_uppercase) && !s.chars().any(char::is_lowercase)).into(),
        "isascii" => s.is_ascii().into(),
        "isalpha" => (!s.is_empty() && s.chars().all(char::is_alphabetic)).into(),
        "isalnum" => (!s.is_empty() && s.chars().all(char::is_alphanumeric)).into(),
        "isnumeric" => (!s.is_empty() && s.chars().all(char::is_numeric)).into(),
        "swapcase" => {
            let swap = |c: char| if c.is_uppercase() { c.to_lowercase().collect() } else { c.to_uppercase().collect() };
            s.chars().map(swap).collect::<Vec<String>>().concat().into()
        }
        "casefold" => s.replace(['ß', 'ẞ'], "ss").to_lowercase().into(),
        "title" => title(s).into(),
        "isspace" => (!s.is_empty() && s.chars().all(is_space)).into(),
        "isdecimal" => of_category(s, |c| c == GeneralCategory::DecimalNumber).into(),
        "isdigit" => (!s.is_empty() && s.chars().all(is_digit)).into(),
        "istitle" => (title(s) == s && s.chars().any(|c| c.is_uppercase() || c.is_lowercase())).into(),
        "isprintable" => s.chars().all(|c| c == ' ' || is_printable(c)).into(),
        "isidentifier" => {
            let word = |c: char| c == '_' || c.is_alphanumeric();
            (s.chars().all(word) && !s.is_empty() && !s.starts_with(|c: char| c.is_numeric())).into()
        }
        _ => return Ok(None),
    }))
}

fn empty_separator() -> Error {
    Error::new(ErrorKind::InvalidOperation, "empty separator")
}

fn split(s: &str, separator: Option<&str>, most: usize, from_right: bool) -> Result<Value, Error> {
    let mut parts = Vec::new();
    let mut rest = s;
    if let Some(separator) = separator {
        if separator.is_empty() {
            return Err(empty_separator());
        }
        while parts.len() < most
            && let Some((left, right)) =
                if from_right { rest.rsplit_once(separator) } else { rest.split_once(separator) }
        {
            let (part, more) = if from_right { (right, left) } else { (left, right) };
            parts.push(part);
            rest = more;
        }
        parts.push(rest);
    } else {
        let trim = |rest: &str| rest.len() - rest.trim_end_matches(is_space).len();
        rest = if from_right { s.trim_end_matches(is_space) } else { s.trim_start_matches(is_space) };
        while parts.len() < most && !rest.is_empty() {
            let (part, more) = if from_right {
                let at = rest.char_indices().rev().find(|(_, c)| is_space(*c)).map_or(0, |(i, c)| i + c.len_utf8());
                let (more, part) = rest.split_at_checked(at).unwrap_or(("", rest));
                (part, more.get(..more.len() - trim(more)).unwrap_or_default())
            } else {
                let (part, more) =
                    rest.split_at_checked(rest.find(is_space).unwrap_or(rest.len())).unwrap_or((rest, ""));
                (part, more.trim_start_matches(is_space))
            };
            parts.push(part);
            rest = more;
        }
        parts.extend(Some(rest).filter(|rest| !rest.is_empty()));
    }
    if from_right {
        parts.reverse();
    }
    Ok(parts.into_iter().map(Value::from).collect())
}

fn lines(s: &str, keep_ends: bool) -> Value {
    let is_end = |c: char| matches!(c, '\n'..='\r' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}');
    let mut lines = Vec::new();
    let mut rest = s;
    while !rest.is_empty() {
        let at = rest.find(is_end).unwrap_or(rest.len());
        let tail = rest.get(at..).unwrap_or_default();
        let end = if tail.starts_with("\r\n") { 2 } else { tail.chars().next().map_or(0, char::len_utf8) };
        let line = rest.get(..if keep_ends { at + end } else { at }).unwrap_or_default();
        lines.push(Value::from(line));
        rest = rest.get(at + end..).unwrap_or_default();
    }
    lines.into()
}

/// `s` filled up to `width` characters. In the middle, an odd space goes where Python puts it.
pub(super) fn pad(state: &State, s: &str, width: usize, fill: &str, how: &str) -> Result<String, Error> {
    let missing = width.saturating_sub(s.chars().count());
    if fill.chars().count() != 1 {
        return Err(Error::new(ErrorKind::InvalidOperation, "the fill character must be one character"));
    }
    state.consume_fuel((missing / 16) as u64)?;
    let left = match how {
        "ljust" => 0,
        "center" => missing / 2 + (missing & width & 1),
        _ => missing,
    };
    let sign = if how == "zfill" && s.starts_with(['-', '+']) { 1 } else { 0 };
    let (sign, digits) = s.split_at(sign);
    Ok([sign, &fill.repeat(left), digits, &fill.repeat(missing - left)].concat())
}

/// Every run of letters with a capital in front.
fn title(s: &str) -> String {
    let mut out = String::with_capacity(s.len());
    let mut inside = false;
    for c in s.chars() {
        let cased = c.is_uppercase() || c.is_lowercase() || get_general_category(c) == GeneralCategory::TitlecaseLetter;
        match (cased, inside) {
            (true, true) => out.extend(c.to_lowercase()),
            (true, false) => out.push_str(&minijinja::filters::title(c.to_string().into())),
            (false, _) => out.push(c),
        }
        inside = cased;
    }
    out
}

fn expand_tabs(state: &State, s: &str, size: usize) -> Result<String, Error> {
    state.consume_fuel((s.matches('\t').count().saturating_mul(size) / 16) as u64)?;
    let mut out = String::new();
    let mut column = 0usize;
    for c in s.chars() {
        match c {
            '\t' => {
                let spaces = size.saturating_sub(column.checked_rem(size).unwrap_or(0));
                out.push_str(&" ".repeat(spaces));
                column += spaces;
            }
            c => {
                out.push(c);
                column = if matches!(c, '\n' | '\r') { 0 } else { column + 1 };
            }
        }
    }
    Ok(out)
}

fn of_category(s: &str, is: impl Fn(GeneralCategory) -> bool) -> bool {
    !s.is_empty() && s.chars().all(|c| is(get_general_category(c)))
}

/// Decimal digits, and digits in superscript or circles.
fn is_digit(c: char) -> bool {
    get_general_category(c) == GeneralCategory::DecimalNumber
        || matches!(c, '²' | '³' | '¹' | '⁰' | '⁴'..='⁹' | '₀'..='₉' | '①'..='⑨' | '⑴'..='⑼' | '⒈'..='⒐' | '⓪' | '⓵'..='⓽' | '⓿'
            | '❶'..='❾' | '➀'..='➈' | '➊'..='➒')
}

fn is_printable(c: char) -> bool {
    use GeneralCategory::*;
    !matches!(
        get_general_category(c),
        Control | Format | Surrogate | PrivateUse | Unassigned | LineSeparator | ParagraphSeparator | SpaceSeparator
    )
}
