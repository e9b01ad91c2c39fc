//! The small part of regular expressions that pre-tokenizers need.
//!
//! A pattern is alternatives of steps; a step repeats one set of characters, looks ahead one character, or is an optional
//! group at the end. That is matched greedily with backtracking over the repetitions, so time is linear in text for the
//! patterns of `split.rs` and the stack does not grow with it. A general engine (fancy-regex) was measured: 814 KB of WASM,
//! 1.7 ms to compile one pattern natively, and an overflow of its stack on a million spaces.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::iter::Peekable;
use std::str::Chars;
use unicode_general_category::{GeneralCategory as Category, get_general_category};

/// Alternatives; the first that matches counts.
#[derive(Debug)]
pub(super) struct Pattern(Vec<Vec<Step>>);

#[derive(Debug)]
enum Step {
    /// As many characters of a set as possible.
    Repeat { set: Set, min: u32, max: u32 },
    /// `(?!\S)`: the next character, if there is one, is not of the set.
    NotBefore(Set),
    /// `(?:a|b)?`, only as the last step.
    Optional(Pattern),
}

/// A set of characters.
#[derive(Debug, Default)]
struct Set {
    /// Whether each ASCII character belongs to the set, negation included.
    ascii: u128,
    /// A bit for each general category.
    categories: u32,
    spaces: bool,
    no_spaces: bool,
    /// Sorted, both ends included.
    ranges: Vec<(char, char)>,
    negated: bool,
}

impl Pattern {
    /// Parses a pattern; `None` when it is outside the supported part.
    pub(super) fn new(source: &str) -> Option<Self> {
        let mut parser = Parser { chars: source.chars().peekable() };
        let pattern = parser.pattern()?;
        parser.chars.next().is_none().then_some(pattern)
    }

    /// The end of the match that begins at `at`.
    pub(super) fn match_at(&self, text: &str, at: usize) -> Option<usize> {
        self.0.iter().find_map(|steps| run(steps, text, at))
    }
}

/// Matches `steps` at `at`. The depth of the recursion is the number of steps.
fn run(steps: &[Step], text: &str, at: usize) -> Option<usize> {
    let Some((step, rest)) = steps.split_first() else { return Some(at) };
    let ahead = text.get(at..)?;
    let (set, min, max) = match step {
        Step::NotBefore(set) => {
            return if ahead.chars().next().is_some_and(|c| set.contains(c)) { None } else { run(rest, text, at) };
        }
        Step::Optional(pattern) => return Some(pattern.match_at(text, at).unwrap_or(at)),
        Step::Repeat { set, min, max } => (set, *min, *max),
    };
    let (mut end, mut n) = (at, 0);
    for c in ahead.chars().take(max as usize).take_while(|&c| set.contains(c)) {
        end += c.len_utf8();
        n += 1;
    }
    loop {
        if n < min {
            return None;
        }
        if let Some(found) = run(rest, text, end) {
            return Some(found);
        }
        end -= text.get(at..end)?.chars().next_back()?.len_utf8();
        n -= 1;
    }
}

impl Set {
    fn contains(&self, c: char) -> bool {
        if c.is_ascii() { self.ascii >> u32::from(c) & 1 == 1 } else { self.look_up(c) }
    }

    fn look_up(&self, c: char) -> bool {
        let inside = (self.categories != 0 && self.categories & bit(get_general_category(c)) != 0)
            || (self.spaces && c.is_whitespace())
            || (self.no_spaces && !c.is_whitespace())
            || self.in_ranges(c);
        inside != self.negated
    }

    fn in_ranges(&self, c: char) -> bool {
        let behind = self.ranges.partition_point(|&(first, _)| first <= c);
        behind.checked_sub(1).and_then(|i| self.ranges.get(i)).is_some_and(|&(_, last)| c <= last)
    }

    /// To be called when all else is set.
    fn finish(mut self) -> Self {
        self.ranges.sort_unstable();
        self.ascii = (0..128u8).filter(|&c| self.look_up(char::from(c))).fold(0, |bits, c| bits | 1 << c);
        self
    }

    fn push_escape(&mut self, escape: Escape) {
        match escape {
            Escape::Char(c) => self.ranges.push((c, c)),
            Escape::Categories(bits) => self.categories |= bits,
            Escape::Space => self.spaces = true,
            Escape::NoSpace => self.no_spaces = true,
        }
    }
}

fn bit(category: Category) -> u32 {
    1 << category as u32
}

/// The general categories of a class as in `\p{L}`.
fn categories(name: &str) -> Option<u32> {
    use Category::*;
    let all: &[Category] = match name {
        "L" => &[UppercaseLetter, LowercaseLetter, TitlecaseLetter, ModifierLetter, OtherLetter],
        "Lu" => &[UppercaseLetter],
        "Ll" => &[LowercaseLetter],
        "Lt" => &[TitlecaseLetter],
        "Lm" => &[ModifierLetter],
        "Lo" => &[OtherLetter],
        "M" => &[NonspacingMark, SpacingMark, EnclosingMark],
        "N" => &[DecimalNumber, LetterNumber, OtherNumber],
        "P" => &[
            ConnectorPunctuation,
            DashPunctuation,
            OpenPunctuation,
            ClosePunctuation,
            InitialPunctuation,
            FinalPunctuation,
            OtherPunctuation,
        ],
        "S" => &[MathSymbol, CurrencySymbol, ModifierSymbol, OtherSymbol],
        _ => return None,
    };
    Some(all.iter().fold(0, |bits, &category| bits | bit(category)))
}

/// What follows a backslash.
enum Escape {
    Char(char),
    Categories(u32),
    Space,
    NoSpace,
}

struct Parser<'a> {
    chars: Peekable<Chars<'a>>,
}

impl Parser<'_> {
    fn pattern(&mut self) -> Option<Pattern> {
        let mut alternatives = vec![self.steps()?];
        while self.chars.next_if_eq(&'|').is_some() {
            alternatives.push(self.steps()?);
        }
        Some(Pattern(alternatives))
    }

    fn steps(&mut self) -> Option<Vec<Step>> {
        let mut steps = Vec::new();
        while self.chars.peek().is_some_and(|c| !matches!(c, '|' | ')')) {
            if matches!(steps.last(), Some(Step::Optional(_))) {
                return None;
            }
            steps.push(if self.chars.next_if_eq(&'(').is_some() { self.group()? } else { self.repeat()? });
        }
        Some(steps)
    }

    fn group(&mut self) -> Option<Step> {
        self.chars.next_if_eq(&'?')?;
        let step = match self.chars.next()? {
            '!' => Step::NotBefore(self.set()?),
            ':' => Step::Optional(self.pattern()?),
            _ => return None,
        };
        self.chars.next_if_eq(&')')?;
        if matches!(step, Step::Optional(_)) {
            self.chars.next_if_eq(&'?')?;
        }
        Some(step)
    }

    fn repeat(&mut self) -> Option<Step> {
        let set = self.set()?;
        let (min, max) = match self.chars.peek() {
            Some('?') => (0, 1),
            Some('*') => (0, u32::MAX),
            Some('+') => (1, u32::MAX),
            Some('{') => {
                self.chars.next();
                let (min, max) = (self.number()?, self.chars.next_if_eq(&',').map(|_| self.number()));
                if self.chars.peek() != Some(&'}') {
                    return None;
                }
                (min, max.unwrap_or(Some(min))?)
            }
            _ => return Some(Step::Repeat { set, min: 1, max: 1 }),
        };
        self.chars.next();
        Some(Step::Repeat { set, min, max })
    }

    fn number(&mut self) -> Option<u32> {
        let mut digits = String::new();
        while let Some(digit) = self.chars.next_if(char::is_ascii_digit) {
            digits.push(digit);
        }
        digits.parse().ok()
    }

    /// A character, an escape or a class in brackets.
    fn set(&mut self) -> Option<Set> {
        let mut set = Set::default();
        match self.chars.next()? {
            '\\' => set.push_escape(self.escape()?),
            '[' => {
                set.negated = self.chars.next_if_eq(&'^').is_some();
                self.class(&mut set)?;
            }
            '.' | '$' | '^' | '?' | '*' | '+' | '{' | '}' | ']' => return None,
            c => set.ranges.push((c, c)),
        }
        Some(set.finish())
    }

    fn class(&mut self, set: &mut Set) -> Option<()> {
        loop {
            let first = match self.chars.next()? {
                ']' => return Some(()),
                '\\' => match self.escape()? {
                    Escape::Char(c) => c,
                    other => {
                        set.push_escape(other);
                        continue;
                    }
                },
                c => c,
            };
            let last = match self.chars.next_if_eq(&'-') {
                None => first,
                Some(_) => match self.chars.next()? {
                    '\\' => match self.escape()? {
                        Escape::Char(c) => c,
                        _ => return None,
                    },
                    ']' => return None,
                    c => c,
                },
            };
            if first > last {
                return None;
            }
            set.ranges.push((first, last));
        }
    }

    fn escape(&mut self) -> Option<Escape> {
        Some(match self.chars.next()? {
            's' => Escape::Space,
            'S' => Escape::NoSpace,
            'r' => Escape::Char('\r'),
            'n' => Escape::Char('\n'),
            't' => Escape::Char('\t'),
            'p' => {
                self.chars.next_if_eq(&'{')?;
                let mut name = String::new();
                while let Some(c) = self.chars.next_if(|&c| c != '}') {
                    name.push(c);
                }
                self.chars.next()?;
                Escape::Categories(categories(&name)?)
            }
            c if c.is_alphanumeric() => return None,
            c => Escape::Char(c),
        })
    }
}

#[cfg(test)]
#[allow(clippy::expect_used, reason = "tests")]
mod tests {
    use super::Pattern;

    fn ends(pattern: &str, text: &str) -> Option<usize> {
        Pattern::new(pattern).expect("a pattern").match_at(text, 0)
    }

    #[test]
    fn steps() {
        assert_eq!(ends(r" ?\p{L}+", " añb1"), Some(5));
        assert_eq!(ends(r"\s+(?!\S)", "   x"), Some(2));
        assert_eq!(ends(r"\s+(?!\S)", "   "), Some(3));
        assert_eq!(ends(r"\s+(?!\S)|\s+", " x"), Some(1));
        assert_eq!(ends(r"\s*[\r\n]+", "  \n \nx"), Some(5));
        assert_eq!(ends(r"\p{N}{1,3}", "１2345"), Some(5));
        assert_eq!(ends(r"[^\s\p{L}]{2}", "+a"), None);
        assert_eq!(ends(r"[\p{Lu}\p{Lo}]*[\p{Ll}\p{Lo}]+(?:'[sS]|'[tT])?", "ABcd'S"), Some(6));
        assert_eq!(ends(r"[!-/:-~\]\\]+", r"!/]\ "), Some(4));
    }

    #[test]
    fn what_is_not_supported_is_refused() {
        for pattern in [
            r"a.", r"(a)", r"(?:a)", r"(?:a)?b", r"\b", r"\p{Han}", r"[a", r"a{2", r"x$", r"(?=a)", r"\", "[a-",
            "[b-a]",
        ] {
            assert!(Pattern::new(pattern).is_none(), "{pattern}");
        }
    }
}
