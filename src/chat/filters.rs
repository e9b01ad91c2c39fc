//! Jinja's filters, tests and functions that minijinja lacks or has with other arguments or results.

use super::json::{Style, to_json};
use super::python::{bind, integer, is_space, pad, repr, string, text};
use super::source::MODULO;
use minijinja::filters as builtin;
use minijinja::formatting::{FormatStyle, format};
use minijinja::value::{Kwargs, Object, Rest, Value, ValueKind, ValueOrKwargs};
use minijinja::{Environment, Error, ErrorKind, State};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

type Filter = fn(&State, &Value, &[Value]) -> Result<Value, Error>;

const FILTERS: &[(&str, Filter)] = &[
    ("abs", |_, value, _| {
        builtin::abs(if value.kind() == ValueKind::Bool { i64::from(value.is_true()).into() } else { value.clone() })
    }),
    ("center", |state, value, args| {
        let [width] = bind(args, ["width"])?;
        let width = usize::try_from(integer(&width)?.unwrap_or(80)).unwrap_or(0);
        pad(state, &text(value), width, " ", "center").map(Value::from)
    }),
    ("d", default),
    ("default", default),
    ("dictsort", |_, value, args| {
        let [case, by, reverse] = bind(args, ["case_sensitive", "by", "reverse"])?;
        builtin::dictsort(value, kwargs([("case_sensitive", case), ("by", by), ("reverse", reverse)]))
    }),
    ("e", |_, value, _| Ok(escape(value))),
    ("escape", |_, value, _| Ok(escape(value))),
    ("filesizeformat", filesizeformat),
    ("float", |state, value, args| {
        let [default] = bind(args, ["default"])?;
        number(state, value, default.unwrap_or(0.0.into()), None)
    }),
    ("forceescape", |_, value, _| Ok(escape(&text(value).into()))),
    ("format", |state, value, args| percent(state, value, args)),
    ("indent", indent),
    ("int", |state, value, args| {
        let [default, base] = bind(args, ["default", "base"])?;
        let base = integer(&base)?.and_then(|base| u32::try_from(base).ok()).unwrap_or(10);
        number(state, value, default.unwrap_or(0.into()), Some(base))
    }),
    ("join", join),
    ("list", |_, value, _| match value.kind() {
        ValueKind::None => Err(not_iterable(value)),
        _ => Ok(value.try_iter()?.collect::<Vec<Value>>().into()),
    }),
    (MODULO, |state, value, args| match args {
        [values] if values.is_tuple() => percent(state, value, &values.try_iter()?.collect::<Vec<Value>>()),
        _ => percent(state, value, args),
    }),
    ("sort", |state, value, args| {
        let [reverse, case, attribute] = bind(args, ["reverse", "case_sensitive", "attribute"])?;
        let given = [("reverse", reverse), ("case_sensitive", case), ("attribute", attribute)];
        builtin::sort(state, iterable(value)?, kwargs(given))
    }),
    ("string", |_, value, _| Ok(if value.kind() == ValueKind::String { value.clone() } else { text(value).into() })),
    ("striptags", |_, value, _| Ok(striptags(&text(value)).into())),
    ("tojson", tojson),
    ("trim", |_, value, args| {
        let [chars] = bind(args, ["chars"])?;
        let chars = string(&chars)?;
        let strips = |c: char| chars.map_or_else(|| is_space(c), |chars| chars.contains(c));
        Ok(text(value).trim_matches(strips).into())
    }),
    ("truncate", truncate),
    ("unique", |state, value, args| {
        let [case, attribute] = bind(args, ["case_sensitive", "attribute"])?;
        builtin::unique(state, iterable(value)?, kwargs([("case_sensitive", case), ("attribute", attribute)]))
    }),
    ("urlencode", urlencode),
    ("wordcount", |_, value, _| {
        Ok(text(value)
            .split(|c: char| !(c.is_alphanumeric() || c == '_'))
            .filter(|word| !word.is_empty())
            .count()
            .into())
    }),
    ("wordwrap", wordwrap),
    ("xmlattr", xmlattr),
];

/// Adds all to an environment.
pub(super) fn add(env: &mut Environment<'static>) {
    for (name, filter) in FILTERS {
        env.add_filter(*name, move |state: &State, value: &Value, args: Rest<ValueOrKwargs>| {
            filter(state, value, &args.into_values())
        });
    }
    env.add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
    env.add_test("sequence", is_sequence);
    env.add_test("callable", is_callable);
    env.add_function("cycler", |items: Rest<Value>| {
        Value::from_object(Cycler { items: items.0, at: AtomicUsize::new(0) })
    });
    env.add_function("joiner", |separator: Option<String>| {
        let separator = separator.unwrap_or_else(|| ", ".to_owned());
        Value::from_object(Joiner { separator, used: AtomicUsize::new(0) })
    });
}

fn fail(what: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, what)
}

fn not_iterable(value: &Value) -> Error {
    fail(format!("{} is not iterable", value.kind()))
}

fn iterable(value: &Value) -> Result<Value, Error> {
    if value.is_none() { Err(not_iterable(value)) } else { Ok(value.clone()) }
}

fn kwargs<const N: usize>(given: [(&str, Option<Value>); N]) -> Kwargs {
    given.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

fn join(state: &State, value: &Value, args: &[Value]) -> Result<Value, Error> {
    let [joiner, attribute] = bind(args, ["d", "attribute"])?;
    let joiner = joiner.map(|joiner| text(&joiner)).unwrap_or_default();
    let attribute = attribute.map(|attribute| text(&attribute));
    let mut out = String::new();
    for (i, mut item) in iterable(value)?.try_iter()?.enumerate() {
        for name in attribute.iter().flat_map(|path| path.split('.')) {
            item = match name.parse::<usize>() {
                Ok(at) => item.get_item(&at.into())?,
                Err(_) => item.get_attr(name)?,
            };
        }
        if i > 0 {
            out.push_str(&joiner);
        }
        state.consume_fuel(1 + (joiner.len() / 64) as u64)?;
        out.push_str(&text(&item));
    }
    Ok(out.into())
}

/// Python asks for a length and items by index, which strings and mappings have, too.
fn is_sequence(value: &Value) -> bool {
    match value.kind() {
        ValueKind::String | ValueKind::Seq | ValueKind::Undefined | ValueKind::Map => true,
        // A range has them, the keys of a mapping do not; both iterate here.
        ValueKind::Iterable => {
            value.len().is_some() && value.get_item(&0.into()).is_ok_and(|item| !item.is_undefined())
        }
        _ => false,
    }
}

/// What an undefined value is called for is an error, but it is callable.
fn is_callable(value: &Value) -> bool {
    match value.kind() {
        ValueKind::Undefined | ValueKind::Plain => true,
        ValueKind::Map => value.get_attr("arguments").is_ok_and(|v| !v.is_undefined()),
        _ => false,
    }
}

fn default(_: &State, value: &Value, args: &[Value]) -> Result<Value, Error> {
    let (positional, named): (&[Value], Kwargs) = minijinja::value::from_args(args)?;
    let other = match positional.first() {
        Some(other) => other.clone(),
        None => named.get::<Option<Value>>("default_value")?.unwrap_or_else(|| "".into()),
    };
    let boolean = match positional.get(1) {
        Some(boolean) => boolean.is_true(),
        None => named.get::<Option<bool>>("boolean")?.unwrap_or(false),
    };
    named.assert_all_used()?;
    Ok(if value.is_undefined() || (boolean && !value.is_true()) { other } else { value.clone() })
}

fn tojson(_: &State, value: &Value, args: &[Value]) -> Result<Value, Error> {
    let [ascii, indent, separators, sort_keys] = bind(args, ["ensure_ascii", "indent", "separators", "sort_keys"])?;
    let indent = match indent {
        Some(indent) => Some(match indent.as_str() {
            Some(indent) => indent.to_owned(),
            None => " ".repeat(spaces(i64::try_from(indent)?)?),
        }),
        None => None,
    };
    let separators: Vec<String> = match &separators {
        Some(separators) => separators.try_iter()?.map(|separator| separator.to_string()).collect(),
        None => vec![if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()],
    };
    let Ok([comma, colon]) = <[String; 2]>::try_from(separators) else {
        return Err(fail("tojson: separators must be two".to_owned()));
    };
    let is = |flag: Option<Value>| flag.is_some_and(|flag| flag.is_true());
    to_json(
        value,
        &Style { indent, comma: comma.into(), colon: colon.into(), ascii: is(ascii), sort_keys: is(sort_keys) },
    )
    .map(Value::from)
}

/// A number of spaces that a line may be indented by.
fn spaces(count: i64) -> Result<usize, Error> {
    match usize::try_from(count.max(0)) {
        Ok(count) if count <= 1000 => Ok(count),
        _ => Err(fail(format!("indented by {count} spaces; at most 1000 are possible"))),
    }
}

/// A number out of any value, or the default where it is none.
fn number(state: &State, value: &Value, default: Value, base: Option<u32>) -> Result<Value, Error> {
    let value = match value.kind() {
        ValueKind::Undefined => return Err(fail("an undefined value is no number".to_owned())),
        ValueKind::String => {
            let digits = value.as_str().unwrap_or_default().trim_matches(is_space);
            let between = |(i, c): (usize, char)| c != '_' || i == 0 || i + 1 == digits.len();
            digits.char_indices().filter(|place| between(*place)).map(|(_, c)| c).collect::<String>().into()
        }
        ValueKind::Seq | ValueKind::Map | ValueKind::Iterable | ValueKind::None => return Ok(default),
        _ => value.clone(),
    };
    let none = || Kwargs::from_iter([] as [(&str, Value); 0]);
    let number = match base {
        Some(base) => builtin::int(state, &value, None, Some(base), none()),
        None => builtin::float(state, &value, None, none()),
    };
    Ok(number.unwrap_or(default))
}

/// Python's `format % values`; one value that is a mapping, or keywords, are found by `%(name)s`.
fn percent(state: &State, pattern: &Value, values: &[Value]) -> Result<Value, Error> {
    let mut rest = pattern.as_str().ok_or_else(|| fail(format!("cannot format by a {}", pattern.kind())))?;
    let keys = values.first().filter(|v| values.len() == 1 && v.kind() == ValueKind::Map);
    let mut unused = values.iter();
    let mut next = || unused.next().ok_or_else(|| fail("not enough values for the format".to_owned()));
    let (mut out, mut keyed) = (String::new(), false);
    while let Some((before, conversion)) = rest.split_once('%') {
        out.push_str(before);
        let name = conversion.strip_prefix('(').and_then(|name| name.split_once(')'));
        let (name, conversion) = name.map_or((None, conversion), |(name, conversion)| (Some(name), conversion));
        let end = conversion
            .find(|c: char| c.is_alphabetic() || c == '%')
            .ok_or_else(|| fail("incomplete format".to_owned()))?;
        let (flags, kind) = conversion.split_at(end);
        let letter = kind.chars().next().unwrap_or_default();
        rest = kind.get(letter.len_utf8()..).unwrap_or_default();
        if letter == '%' {
            out.push('%');
            continue;
        }
        let mut spec = String::from("%");
        for c in flags.chars() {
            if c == '*' { spec.push_str(&text(next()?)) } else { spec.push(c) }
        }
        let value = match (name, keys) {
            (Some(name), Some(keys)) => keys.get_item(&name.into())?,
            (Some(_), None) => return Err(fail("the format needs a mapping".to_owned())),
            (None, _) => next()?.clone(),
        };
        keyed |= name.is_some();
        let width: usize = flags
            .trim_start_matches(['-', '+', ' ', '#', '0'])
            .split('.')
            .filter_map(|n| n.parse::<usize>().ok())
            .sum();
        state.consume_fuel((width / 16) as u64)?;
        let (letter, value) = match letter {
            's' => ('s', text(&value).into()),
            'r' => ('s', repr(&value).into()),
            'd' | 'i' | 'u' if value.kind() == ValueKind::Number => {
                ('d', number(state, &value, value.clone(), Some(10))?)
            }
            other => (other, value),
        };
        spec.push(letter);
        out.push_str(&format(FormatStyle::Printf, &spec, &[value])?);
    }
    out.push_str(rest);
    if !keyed && keys.is_none() && unused.next().is_some() {
        return Err(fail("not all values are used by the format".to_owned()));
    }
    Ok(out.into())
}

/// `&`, `<`, `>` and quotes as HTML's character references.
fn escape(value: &Value) -> Value {
    if value.is_safe() {
        return value.clone();
    }
    let mut out = String::new();
    for c in text(value).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    Value::from_safe_string(out)
}

fn indent(state: &State, value: &Value, args: &[Value]) -> Result<Value, Error> {
    let [width, first, blank] = bind(args, ["width", "first", "blank"])?;
    let by = match &width {
        Some(width) => match width.as_str() {
            Some(by) => by.to_owned(),
            None => " ".repeat(spaces(i64::try_from(width.clone())?)?),
        },
        None => " ".repeat(4),
    };
    let s = value.as_str().ok_or_else(|| fail(format!("cannot indent a {}", value.kind())))?;
    state.consume_fuel((s.matches('\n').count().saturating_mul(by.len()) / 16) as u64)?;
    let is = |flag: &Option<Value>| flag.as_ref().is_some_and(Value::is_true);
    let mut out = String::new();
    for (i, line) in s.split('\n').enumerate() {
        if i > 0 {
            out.push('\n');
        }
        if if i == 0 { is(&first) } else { !line.is_empty() || is(&blank) } {
            out.push_str(&by);
        }
        out.push_str(line);
    }
    Ok(out.into())
}

fn striptags(html: &str) -> String {
    let mut out = String::new();
    let mut rest = html;
    while let Some((before, tag)) = rest.split_once('<') {
        let Some((_, after)) = tag.split_once('>') else { break };
        out.push_str(before);
        rest = after;
    }
    out.push_str(rest);
    let plain = out.split_whitespace().collect::<Vec<_>>().join(" ");
    [("&lt;", "<"), ("&gt;", ">"), ("&#34;", "\""), ("&#39;", "'"), ("&amp;", "&")]
        .iter()
        .fold(plain, |plain, (reference, c)| plain.replace(reference, c))
}

fn truncate(_: &State, value: &Value, args: &[Value]) -> Result<Value, Error> {
    let [length, kill, end, leeway] = bind(args, ["length", "killwords", "end", "leeway"])?;
    let count = |value: &Option<Value>, or: usize| -> Result<usize, Error> {
        Ok(integer(value)?.map_or(or, |count| usize::try_from(count).unwrap_or(0)))
    };
    let (length, leeway) = (count(&length, 255)?, count(&leeway, 5)?);
    let (end, s) = (string(&end)?.unwrap_or("..."), text(value));
    if s.chars().count() <= length.saturating_add(leeway) {
        return Ok(s.into());
    }
    let kept: String = s.chars().take(length.saturating_sub(end.chars().count())).collect();
    let kept = if kill.is_some_and(|kill| kill.is_true()) {
        &kept
    } else {
        kept.rsplit_once(' ').map_or(kept.as_str(), |(words, _)| words)
    };
    Ok([kept, end].concat().into())
}

/// Lines of at most `width` characters, as Python's `textwrap` breaks them where words are parted by single spaces.
fn wordwrap(state: &State, value: &Value, args: &[Value]) -> Result<Value, Error> {
    let [width, breaks, separator, _hyphens] =
        bind(args, ["width", "break_long_words", "wrapstring", "break_on_hyphens"])?;
    let width = usize::try_from(integer(&width)?.unwrap_or(79)).unwrap_or(0).max(1);
    let breaks = breaks.is_none_or(|breaks| breaks.is_true());
    let separator = string(&separator)?.unwrap_or("\n");
    let s = text(value);
    state.consume_fuel((s.len() / width).saturating_mul(separator.len()) as u64)?;
    let mut lines: Vec<String> = Vec::new();
    for paragraph in s.lines() {
        let mut line = String::new();
        for word in paragraph.split(' ') {
            let mut word: Vec<char> = word.chars().collect();
            if !line.is_empty() && line.chars().count() + 1 + word.len() > width {
                lines.push(std::mem::take(&mut line));
            }
            while breaks && word.len() > width {
                lines.push(word.drain(..width).collect());
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.extend(word);
        }
        lines.push(line);
    }
    Ok(lines.join(separator).into())
}

fn filesizeformat(_: &State, value: &Value, args: &[Value]) -> Result<Value, Error> {
    let [binary] = bind(args, ["binary"])?;
    let binary = binary.is_some_and(|binary| binary.is_true());
    let (base, i) = if binary { (1024.0, "i") } else { (1000.0, "") };
    let bytes = f64::try_from(value.clone())?;
    if bytes < base {
        let unit = if bytes == 1.0 { "Byte" } else { "Bytes" };
        return Ok(format!("{} {unit}", bytes as i64).into());
    }
    let (mut size, mut letters) = (bytes / base, if binary { "KMGTPEZY" } else { "kMGTPEZY" }.chars());
    let mut letter = letters.next();
    while size >= base
        && let Some(larger) = letters.next()
    {
        size /= base;
        letter = Some(larger);
    }
    Ok(format!("{size:.1} {}{i}B", letter.unwrap_or_default()).into())
}

fn urlencode(_: &State, value: &Value, _: &[Value]) -> Result<Value, Error> {
    let quote = |value: &Value, query: bool| -> String {
        let mut out = String::new();
        for byte in text(value).bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(byte.into()),
                b'/' if !query => out.push('/'),
                b' ' if query => out.push('+'),
                _ => out.push_str(&format!("%{byte:02X}")),
            }
        }
        out
    };
    let pairs: Vec<[Value; 2]> = match value.kind() {
        ValueKind::Map => {
            value.try_iter()?.map(|key| Ok([key.clone(), value.get_item(&key)?])).collect::<Result<_, Error>>()?
        }
        ValueKind::Seq | ValueKind::Iterable => value
            .try_iter()?
            .map(|pair| Ok([pair.get_item(&0.into())?, pair.get_item(&1.into())?]))
            .collect::<Result<_, Error>>()?,
        _ => return Ok(quote(value, false).into()),
    };
    let pairs: Vec<String> =
        pairs.iter().map(|[key, value]| format!("{}={}", quote(key, true), quote(value, true))).collect();
    Ok(pairs.join("&").into())
}

fn xmlattr(_: &State, value: &Value, args: &[Value]) -> Result<Value, Error> {
    let [space] = bind(args, ["autospace"])?;
    let mut out = String::new();
    for key in value.try_iter()? {
        let item = value.get_item(&key)?;
        if !item.is_none() && !item.is_undefined() {
            out.push_str(&format!(" {}=\"{}\"", escape(&key), escape(&item)));
        }
    }
    Ok(if space.is_none_or(|space| space.is_true()) { out.into() } else { out.trim_start().into() })
}

/// `cycler(…)`: gives its items one after the other, for ever.
#[derive(Debug)]
struct Cycler {
    items: Vec<Value>,
    at: AtomicUsize,
}

impl Cycler {
    fn item(&self, at: usize) -> Value {
        at.checked_rem(self.items.len()).and_then(|at| self.items.get(at)).cloned().unwrap_or_default()
    }
}

impl Object for Cycler {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        (key.as_str() == Some("current")).then(|| self.item(self.at.load(Ordering::Relaxed)))
    }

    fn call_method(self: &Arc<Self>, _: &mut State, method: &str, _: &[Value]) -> Result<Value, Error> {
        match method {
            "next" => Ok(self.item(self.at.fetch_add(1, Ordering::Relaxed))),
            "reset" => {
                self.at.store(0, Ordering::Relaxed);
                Ok(Value::from(()))
            }
            _ => Err(Error::from(ErrorKind::UnknownMethod)),
        }
    }
}

/// `joiner(…)`: nothing when it is first called, then its separator.
#[derive(Debug)]
struct Joiner {
    separator: String,
    used: AtomicUsize,
}

impl Object for Joiner {
    fn call(self: &Arc<Self>, _: &mut State, _: &[Value]) -> Result<Value, Error> {
        let first = self.used.fetch_add(1, Ordering::Relaxed) == 0;
        Ok(if first { "" } else { self.separator.as_str() }.into())
    }
}
