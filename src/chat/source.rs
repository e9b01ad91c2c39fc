//! What Jinja's lexer and parser know and minijinja's do not, written in the words that minijinja knows.
//!
//! Line ends become `\n`; `{% generation %}` (a mark for training, around what the assistant said) becomes a block that
//! changes nothing; Python's rarer escapes become the characters; `'…' % x` becomes a filter; what `~` appends is made a
//! string as Python does; `{% block %}` becomes a scope, and what loads another template fails when it is reached; a
//! default of a macro's argument that speaks of another argument becomes an assignment.

use std::iter::Peekable;
use std::str::CharIndices;

/// The filter that `'…' % x` becomes.
pub(super) const MODULO: &str = "__mod__";

/// The function that stands for another template.
pub(super) const LOAD: &str = "__load__";

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Space,
    Text,
    Word,
    Sign,
}

type Token<'a> = (Kind, &'a str);

/// The template for minijinja.
pub(super) fn prepare(source: &str) -> String {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut out = String::with_capacity(source.len());
    let mut rest = source.as_str();
    while let Some(at) = rest.find('{') {
        let (before, tag) = rest.split_at(at);
        out.push_str(before);
        rest = match tag.get(..2) {
            Some("{#") => copy(tag, tag.find("#}").map_or(tag.len(), |end| end + 2), &mut out),
            Some("{%") => statement(tag, &mut out),
            Some("{{") => {
                let (tokens, end) = tokens(tag, "}}");
                out.push_str("{{");
                expression(&tokens, &mut out);
                copy(tag.get(end..).unwrap_or_default(), 2, &mut out)
            }
            _ => copy(tag, 1, &mut out),
        };
    }
    out.push_str(rest);
    out
}

/// Copies `length` bytes; what follows them is returned.
fn copy<'a>(text: &'a str, length: usize, out: &mut String) -> &'a str {
    let (copied, rest) = text.split_at_checked(length).unwrap_or((text, ""));
    out.push_str(copied);
    rest
}

fn statement<'a>(tag: &'a str, out: &mut String) -> &'a str {
    let (tokens, end) = tokens(tag, "%}");
    let after = tag.get(end..).unwrap_or_default();
    let is_sign = |token: &&Token| matches!(token.1, "-" | "+");
    let (open, close) = (tokens.first().filter(is_sign), tokens.last().filter(is_sign));
    let (open, close) = (open.map_or("", |t| t.1), close.map_or("", |t| t.1));
    let words: Vec<&str> = tokens.iter().filter(|t| t.0 != Kind::Space).map(|t| t.1).collect();
    let words = words.get(usize::from(!open.is_empty())..).unwrap_or_default();
    let words = words.get(..words.len() - usize::from(!close.is_empty() && !words.is_empty())).unwrap_or_default();
    out.push_str("{%");
    match words {
        ["generation"] => out.extend([open, " if true ", close]),
        ["endgeneration"] => out.extend([open, " endif ", close]),
        ["raw"] => {
            out.extend([open, " raw ", close, "%}"]);
            let after = after.get(2..).unwrap_or_default();
            // Jinja keeps the line end behind this tag, minijinja takes one away.
            if close.is_empty() && after.starts_with('\n') {
                out.push('\n');
            }
            return copy(after, end_of_raw(after), out);
        }
        // A block of a template that no other extends is a scope.
        ["block", ..] => out.extend([open, " with ", close]),
        ["endblock", ..] => out.extend([open, " endwith ", close]),
        ["include" | "import" | "from" | "extends", ..] => out.extend([open, " set _ = ", LOAD, "() ", close]),
        ["macro", ..] => macro_head(&tokens, out),
        _ => expression(&tokens, out),
    }
    copy(after, 2, out)
}

/// Where the text ends that `{% endraw %}` ends.
fn end_of_raw(text: &str) -> usize {
    let ends = text.match_indices("{%").map(|(at, _)| at);
    let is_end = |at: &usize| {
        let tag = text.get(at + 2..).unwrap_or_default().trim_start_matches(['-', '+']);
        tag.trim_start().starts_with("endraw")
    };
    ends.into_iter().find(is_end).unwrap_or(text.len())
}

/// The tokens of a tag, and where its end mark is.
fn tokens<'a>(tag: &'a str, end: &str) -> (Vec<Token<'a>>, usize) {
    let mut tokens = Vec::new();
    let mut depth = 0usize;
    let mut chars = tag.char_indices().peekable();
    chars.nth(1);
    while let Some((start, c)) = chars.next() {
        let here = tag.get(start..).unwrap_or_default();
        if depth == 0 && here.starts_with(end) {
            return (tokens, start);
        }
        let kind = match c {
            '\'' | '"' => {
                while let Some((_, inner)) = chars.next() {
                    match inner {
                        '\\' => drop(chars.next()),
                        quote if quote == c => break,
                        _ => {}
                    }
                }
                Kind::Text
            }
            c if c.is_whitespace() => skip(&mut chars, char::is_whitespace, Kind::Space),
            '0'..='9' => {
                skip(&mut chars, |c| c.is_alphanumeric() || matches!(c, '_' | '.'), Kind::Word);
                let number = tag.get(start..chars.peek().map_or(tag.len(), |(at, _)| *at)).unwrap_or_default();
                if number.ends_with(['e', 'E']) && !number.starts_with("0x") {
                    chars.next_if(|(_, c)| matches!(c, '-' | '+'));
                    skip(&mut chars, |c| c.is_ascii_digit() || c == '_', Kind::Word);
                }
                Kind::Word
            }
            c if c.is_alphanumeric() || c == '_' => skip(&mut chars, |c| c.is_alphanumeric() || c == '_', Kind::Word),
            _ => {
                match c {
                    '(' | '[' | '{' => depth += 1,
                    ')' | ']' | '}' => depth = depth.saturating_sub(1),
                    '*' | '/' if here.starts_with("**") || here.starts_with("//") => drop(chars.next()),
                    _ => {}
                }
                Kind::Sign
            }
        };
        let stop = chars.peek().map_or(tag.len(), |(at, _)| *at);
        tokens.push((kind, tag.get(start..stop).unwrap_or_default()));
    }
    (tokens, tag.len())
}

fn skip(chars: &mut Peekable<CharIndices>, of: impl Fn(char) -> bool, kind: Kind) -> Kind {
    while chars.next_if(|(_, c)| of(*c)).is_some() {}
    kind
}

/// The index of the next token that is no space, from `at` on.
fn next(tokens: &[Token], at: usize) -> Option<usize> {
    (at..tokens.len()).find(|i| tokens.get(*i).is_some_and(|t| t.0 != Kind::Space))
}

fn expression(tokens: &[Token], out: &mut String) {
    let mut closing: Vec<(usize, &str)> = Vec::new();
    let mut before: Option<Token> = None;
    for (i, &(kind, text)) in tokens.iter().enumerate() {
        match (kind, text) {
            (Kind::Text, _) => push_literal(text, out),
            (Kind::Sign, "%") if before.is_some_and(|t| t.0 == Kind::Text) => {
                out.extend(["|", MODULO, "("]);
                closing.push((end_of_operand(tokens, i + 1), ")"));
            }
            (Kind::Sign, "~") => {
                let end = end_of_term(tokens, i + 1);
                let (first, following) = (next(tokens, i + 1), next(tokens, end).and_then(|i| tokens.get(i)));
                let is_text = first.and_then(|i| tokens.get(i)).is_none_or(|t| t.0 == Kind::Text);
                out.push('~');
                if !is_text && following.is_none_or(|t| t.1 != "is") {
                    out.push('(');
                    closing.push((end, ")|string"));
                }
            }
            // minijinja knows no plus in front of a number; as the last token it is a mark for white space.
            (Kind::Sign, "+") if i > 0 && next(tokens, i + 1).is_some() && before.is_none_or(opens_operand) => {}
            _ => out.push_str(text),
        }
        if kind != Kind::Space {
            before = Some((kind, text));
        }
        while let Some((_, close)) = closing.pop_if(|(end, _)| *end == i + 1) {
            out.push_str(close);
        }
    }
}

/// Whether an operand comes behind this token.
fn opens_operand((kind, text): Token) -> bool {
    match kind {
        Kind::Sign => !matches!(text, ")" | "]" | "}"),
        Kind::Word => matches!(text, "and" | "or" | "not" | "in" | "if" | "else" | "elif" | "is"),
        _ => false,
    }
}

/// The index behind the operand at `at`: signs, a literal, name or bracket, and what hangs on it.
fn end_of_operand(tokens: &[Token], at: usize) -> usize {
    let text = |i: Option<usize>| i.and_then(|i| tokens.get(i)).map_or("", |t| t.1);
    let mut at = next(tokens, at);
    while matches!(text(at), "-" | "+") {
        at = at.and_then(|i| next(tokens, i + 1));
    }
    let Some(first) = at else { return tokens.len() };
    let mut end = end_of_bracket(tokens, first);
    loop {
        let following = next(tokens, end);
        let Some(i) = following else { return end };
        end = match text(following) {
            "(" | "[" => end_of_bracket(tokens, i),
            "." | "|" => next(tokens, i + 1).map_or(tokens.len(), |name| name + 1),
            "**" => return end_of_operand(tokens, i + 1),
            _ => return end,
        };
    }
}

/// The index behind the product at `at`, or whatever else `~` joins.
fn end_of_term(tokens: &[Token], at: usize) -> usize {
    let mut end = end_of_operand(tokens, at);
    while let Some(i) = next(tokens, end)
        && tokens.get(i).is_some_and(|t| matches!(t.1, "*" | "/" | "//" | "%"))
        && next(tokens, i + 1).is_some()
    {
        end = end_of_operand(tokens, i + 1);
    }
    end
}

/// The index behind the token at `at`, or behind the bracket that it opens.
fn end_of_bracket(tokens: &[Token], at: usize) -> usize {
    let mut depth = 0usize;
    for (i, token) in tokens.iter().enumerate().skip(at) {
        match token.1 {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return i + 1;
        }
    }
    tokens.len()
}

/// `macro f(a, b=a)`: minijinja knows only the arguments of the call while it computes defaults.
fn macro_head(tokens: &[Token], out: &mut String) {
    let Some(open) = tokens.iter().position(|t| t.1 == "(") else { return expression(tokens, out) };
    let close = end_of_bracket(tokens, open).saturating_sub(1);
    let (mut names, mut head, mut later) = (Vec::new(), Vec::from(tokens.get(..=open).unwrap_or_default()), Vec::new());
    let mut at = open + 1;
    while at < close {
        let mut stop = at;
        while stop < close && tokens.get(stop).is_some_and(|t| t.1 != ",") {
            stop = end_of_bracket(tokens, stop);
        }
        let argument = tokens.get(at..stop).unwrap_or_default();
        let name = argument.iter().find(|t| t.0 == Kind::Word).map_or("", |t| t.1);
        let equals = argument.iter().position(|t| t.1 == "=").unwrap_or(argument.len());
        let default = argument.get(equals + 1..).unwrap_or_default();
        if default.iter().any(|t| t.0 == Kind::Word && names.contains(&t.1)) {
            head.extend([(Kind::Word, name), (Kind::Sign, "="), (Kind::Word, "__missing__")]);
            later.push((name, default));
        } else {
            head.extend_from_slice(argument);
        }
        head.extend(tokens.get(stop).filter(|_| stop < close));
        names.push(name);
        at = stop + 1;
    }
    let tail = tokens.get(close..).unwrap_or_default();
    let Some((sign, tail)) = tail.split_last().filter(|_| !later.is_empty()) else { return expression(tokens, out) };
    head.extend_from_slice(tail);
    let sign = if matches!(sign.1, "-" | "+") {
        sign.1
    } else {
        head.push(*sign);
        ""
    };
    expression(&head, out);
    for (i, (name, default)) in later.iter().enumerate() {
        out.extend(["%}{% if ", name, " is undefined %}{% set ", name, " = "]);
        expression(default, out);
        out.push_str(" %}{% endif ");
        if i + 1 == later.len() {
            out.push_str(sign);
        }
    }
}

/// A string literal with those of Python's escapes resolved that minijinja does not know.
fn push_literal(literal: &str, out: &mut String) {
    let mut rest = literal;
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        out.push_str(before);
        let octal = escape.bytes().skip(1).take(3).take_while(|b| matches!(b, b'0'..=b'7')).count();
        let (length, code) = match escape.as_bytes().get(1) {
            Some(b'\n') => (2, None),
            Some(b'a') => (2, Some(7)),
            Some(b'v') => (2, Some(11)),
            Some(b'0'..=b'7') => (1 + octal, u32::from_str_radix(escape.get(1..1 + octal).unwrap_or_default(), 8).ok()),
            Some(b'U') => (10, escape.get(2..10).and_then(|digits| u32::from_str_radix(digits, 16).ok())),
            _ => {
                let next = escape.char_indices().nth(2).map_or(escape.len(), |(i, _)| i);
                rest = copy(escape, next, out);
                continue;
            }
        };
        match code.and_then(char::from_u32) {
            Some(c) if (c as u32) < 128 => out.push_str(&format!("\\x{:02x}", c as u32)),
            Some(c) => out.push(c),
            None => {}
        }
        rest = escape.get(length..).unwrap_or_default();
    }
    out.push_str(rest);
}
