//! Where a value of JSON ends.

/// Follows one value, character by character. It is not checked, only its brackets and quotes are.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Scan {
    depth: usize,
    quoted: bool,
    escaped: bool,
    begun: bool,
}

/// What a character is to the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Of it.
    Inside,
    /// Its last one.
    Last,
    /// Behind it.
    Behind,
}

impl Scan {
    pub(super) fn push(&mut self, c: char) -> Place {
        let first = !std::mem::replace(&mut self.begun, true);
        if self.quoted {
            match c {
                _ if self.escaped => self.escaped = false,
                '\\' => self.escaped = true,
                '"' => {
                    self.quoted = false;
                    return if self.depth == 0 { Place::Last } else { Place::Inside };
                }
                _ => {}
            }
            return Place::Inside;
        }
        match c {
            '"' if self.depth > 0 || first => self.quoted = true,
            '{' | '[' => self.depth += 1,
            '}' | ']' if self.depth == 0 => return Place::Behind,
            '}' | ']' => {
                self.depth -= 1;
                if self.depth == 0 {
                    return Place::Last;
                }
            }
            _ if self.depth == 0 && (c == ',' || c.is_whitespace()) => return Place::Behind,
            _ => {}
        }
        Place::Inside
    }
}
