//! Calls in Python's syntax, `f(x=1, y='a')`, and Gemma's, `call:f{x:1,y:"a"}`.

use super::calls::Call;
use serde_json::{Map, Number, Value};

/// Levels of lists and mappings in a value.
const DEPTH: usize = 64;

/// The calls of a list, or of lines; `None` where the text is something else.
pub(super) fn calls(text: &str) -> Option<Vec<Call>> {
    let mut reader = Reader { rest: text.trim(), quote: "" };
    let list = reader.eat("[");
    let mut calls = Vec::new();
    while !(reader.rest.is_empty() || list && reader.rest.starts_with(']')) {
        let name = reader.name(|c| c.is_alphanumeric() || "_.-".contains(c))?;
        let arguments = reader.arguments()?;
        calls.push((name.to_owned(), Value::Object(arguments).to_string()));
        // Lines need nothing between them.
        let comma = reader.eat(",") || reader.eat(";");
        if list && !comma && !reader.rest.starts_with(']') {
            return None;
        }
    }
    ((!list || reader.eat("]")) && reader.rest.is_empty()).then_some(calls)
}

/// Gemma's calls, whose texts are in quotes of their own.
pub(super) fn quoted_calls(text: &str, quote: &str) -> Option<Vec<Call>> {
    let mut reader = Reader { rest: text.trim(), quote };
    let mut calls = Vec::new();
    while !reader.rest.is_empty() {
        reader.eat("call:").then_some(())?;
        let name = reader.name(|c| c != '{' && !c.is_whitespace())?;
        reader.eat("{").then_some(())?;
        let arguments = reader.mapping(0)?;
        calls.push((name.to_owned(), Value::Object(arguments).to_string()));
    }
    Some(calls)
}

struct Reader<'a> {
    rest: &'a str,
    /// Of texts, beside the usual ones; empty in Python.
    quote: &'a str,
}

impl<'a> Reader<'a> {
    /// Takes a token and the white space behind it, if it is next.
    fn eat(&mut self, token: &str) -> bool {
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest.trim_start();
                true
            }
            None => false,
        }
    }

    fn name(&mut self, is_of_it: impl Fn(char) -> bool) -> Option<&'a str> {
        let end = self.rest.find(|c| !is_of_it(c)).unwrap_or(self.rest.len());
        let (name, rest) = self.rest.split_at_checked(end).filter(|(name, _)| !name.is_empty())?;
        self.rest = rest.trim_start();
        Some(name)
    }

    /// `(x=1, y='a')`
    fn arguments(&mut self) -> Option<Map<String, Value>> {
        let mut arguments = Map::new();
        self.eat("(").then_some(())?;
        while !self.eat(")") {
            let name = self.name(|c| c.is_alphanumeric() || c == '_')?;
            self.eat("=").then_some(())?;
            arguments.insert(name.to_owned(), self.value(0)?);
            if !self.eat(",") && !self.rest.starts_with(')') {
                return None;
            }
        }
        Some(arguments)
    }

    /// A mapping behind its opening bracket.
    fn mapping(&mut self, depth: usize) -> Option<Map<String, Value>> {
        let mut mapping = Map::new();
        while !self.eat("}") {
            let key = match self.text() {
                Some(key) => key,
                None if self.quote.is_empty() => return None,
                None => self.name(|c| !":{},[]".contains(c))?.trim_end().to_owned(),
            };
            self.eat(":").then_some(())?;
            mapping.insert(key, self.value(depth + 1)?);
            if !self.eat(",") && !self.rest.starts_with('}') {
                return None;
            }
        }
        Some(mapping)
    }

    fn value(&mut self, depth: usize) -> Option<Value> {
        if depth > DEPTH {
            return None;
        }
        if let Some(text) = self.text() {
            return Some(text.into());
        }
        if self.eat("{") {
            return self.mapping(depth).map(Value::Object);
        }
        for (open, close) in [("[", "]"), ("(", ")")] {
            if self.eat(open) {
                let mut list = Vec::new();
                while !self.eat(close) {
                    list.push(self.value(depth + 1)?);
                    if !self.eat(",") && !self.rest.starts_with(close) {
                        return None;
                    }
                }
                return Some(list.into());
            }
        }
        let word = self.name(|c| c.is_alphanumeric() || "+-._".contains(c))?;
        Some(match word {
            "True" | "true" => true.into(),
            "False" | "false" => false.into(),
            "None" | "null" | "none" => Value::Null,
            _ => Value::Number(word.replace('_', "").parse::<Number>().ok()?),
        })
    }

    /// A text in any kind of quotes.
    fn text(&mut self) -> Option<String> {
        if !self.quote.is_empty()
            && let Some(rest) = self.rest.strip_prefix(self.quote)
        {
            let (text, rest) = rest.split_once(self.quote)?;
            self.rest = rest.trim_start();
            return Some(text.to_owned());
        }
        let quote = ["'''", "\"\"\"", "'", "\""].into_iter().find(|quote| self.rest.starts_with(quote))?;
        let (text, used) = unescaped(self.rest.get(quote.len()..)?, quote)?;
        self.rest = self.rest.get(quote.len() + used..)?.trim_start();
        Some(text)
    }
}

/// A text up to the closing quote, and how many bytes it and the quote are.
fn unescaped(text: &str, quote: &str) -> Option<(String, usize)> {
    let mut out = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        if text.get(at..)?.starts_with(quote) {
            return Some((out, at + quote.len()));
        }
        if c != '\\' {
            out.push(c);
            continue;
        }
        let (_, escape) = chars.next()?;
        match escape {
            'n' => out.push('\n'),
            't' => out.push('\t'),
            'r' => out.push('\r'),
            '\n' => {}
            'x' | 'u' => {
                let digits = if escape == 'x' { 2 } else { 4 };
                let code: String = chars.by_ref().take(digits).map(|(_, c)| c).collect();
                out.push(char::from_u32(u32::from_str_radix(&code, 16).ok()?).unwrap_or('\u{fffd}'));
            }
            '\\' | '\'' | '"' | '/' => out.push(escape),
            // Python leaves what it does not know as it is.
            _ => out.extend(['\\', escape]),
        }
    }
    None
}
