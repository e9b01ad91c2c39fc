//! What holds of an answer besides its grammar: one that goes in circles comes to an end, and so do numbers.

/// Digits of a number, behind which no more are written: a double has 17 that count, the largest integers have 20.
const MOST_DIGITS: u32 = 24;

/// Where in its form an answer is, and what of it has to come to an end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Course {
    /// Whether the answer is JSON, or has JSON in it.
    json: bool,
    in_string: bool,
    escaped: bool,
    /// Digits in a row that the answer ends in, with what else numbers have.
    digits: u32,
    /// Whether a string was to end before.
    concluded: bool,
    /// The string that the answer is in ends.
    end_string: bool,
    /// Lists, objects and the answer end; no further ones begin.
    end_all: bool,
}

impl Course {
    pub(crate) fn new(json: bool) -> Self {
        let (in_string, escaped, concluded, end_string, end_all) = Default::default();
        Course { json, in_string, escaped, digits: 0, concluded, end_string, end_all }
    }

    /// The answer goes on with these bytes.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            let number = byte.is_ascii_digit() || !self.in_string && self.digits > 0 && b".eE+-".contains(&byte);
            self.digits = if number { self.digits + u32::from(byte.is_ascii_digit()) } else { 0 };
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = self.in_string,
                b'"' => (self.in_string, self.end_string) = (!self.in_string, false),
                _ => {}
            }
        }
    }

    /// The answer goes in circles. The first string that does so ends, and what follows is as free as before. Where it happens again, or
    /// outside of strings, all that can end does.
    pub(crate) fn conclude(&mut self) {
        self.end_string = self.json && self.in_string;
        self.end_all = self.end_all || self.concluded || !self.end_string;
        self.concluded = true;
    }

    /// Leaves those of the allowed tokens that bring to an end what has to end, where there are such; `first` gives the first byte
    /// of a token, `ends` are those that end an answer.
    pub(crate) fn narrow(&self, allowed: &mut [u32], ends: &[u32], first: impl Fn(u32) -> Option<u8>) {
        let begins = |token: u32, bytes: &[u8]| first(token).is_some_and(|byte| bytes.contains(&byte));
        let digit = |token: u32| first(token).is_some_and(|byte| byte.is_ascii_digit());
        if self.json && self.digits >= MOST_DIGITS {
            // A string that may end at any time may have as many as it likes.
            let free = self.in_string && any(allowed, |token| begins(token, b"\""));
            let _ = !free && keep(allowed, |token| !digit(token));
        }
        if self.end_all && keep(allowed, |token| ends.contains(&token)) || !self.json || self.escaped {
            return;
        }
        if self.end_string {
            keep(allowed, |token| begins(token, b"\""));
        } else if self.end_all && !self.in_string {
            let goes_on = |token| begins(token, b"[{") || self.digits > 0 && (digit(token) || begins(token, b".eE"));
            let _ = keep(allowed, |token| begins(token, b"]}")) || keep(allowed, |token| !goes_on(token));
        }
    }
}

/// Whether a mask has such a token.
fn any(allowed: &[u32], wanted: impl Fn(u32) -> bool) -> bool {
    (0..allowed.len() as u32 * 32).any(|token| allowed[token as usize / 32] >> (token % 32) & 1 == 1 && wanted(token))
}

/// Takes all tokens out of a mask but those wanted; where there are none, and `false`, it stays as it is.
fn keep(allowed: &mut [u32], wanted: impl Fn(u32) -> bool) -> bool {
    let some = any(allowed, &wanted);
    if some {
        for (bits, word) in allowed.iter_mut().zip(0..) {
            *bits = (0..32).filter(|i| *bits >> i & 1 == 1 && wanted(word * 32 + i)).fold(0, |bits, i| bits | 1 << i);
        }
    }
    some
}
