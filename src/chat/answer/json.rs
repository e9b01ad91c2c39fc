//! Calls in JSON, read as they come: the arguments of a call are passed on while they are written.

use super::Out;
use super::calls::{Step, function};
use super::scan::{Place, Scan};
use serde_json::Value;

/// Keys of a call.
const KEYS: [&str; 5] = ["name", "arguments", "parameters", "id", "type"];

/// An object with `name` and `arguments` or `parameters`, or a list of them; or a name with its arguments behind it.
#[derive(Clone, Debug)]
pub(super) struct Json {
    end: &'static str,
    state: State,
    in_list: bool,
    /// What is being read: a header, a key, a value, the end.
    text: String,
    /// Of the object that is being read.
    name: Option<String>,
    arguments: Option<String>,
    /// Whether its call has been passed on.
    passed_on: bool,
    /// Whether any has.
    any: bool,
}

#[derive(Clone, Debug)]
enum State {
    /// In front of an object, or in the header of arguments that have none around them.
    Before,
    /// In an object, in front of a key, or of its end.
    Object,
    Key(Scan),
    /// Between a key and its value.
    Colon,
    /// In the value of a key.
    Value(String, Scan),
    /// In arguments that are passed on; whether an object is around them.
    Arguments(Scan, bool),
    /// Behind an object: another one, the end of the list, or the end.
    Behind,
}

impl Json {
    pub(super) fn new(end: &'static str) -> Self {
        Json {
            end,
            state: State::Before,
            in_list: false,
            text: String::new(),
            name: None,
            arguments: None,
            passed_on: false,
            any: false,
        }
    }

    /// With `tools`, only what is the name of one of them is a call.
    pub(super) fn push(&mut self, c: char, tools: Option<&Value>, out: &mut Out) -> Step {
        match &mut self.state {
            State::Before => self.before(c, out),
            State::Object => match c {
                '"' => {
                    let mut scan = Scan::default();
                    scan.push(c);
                    self.text = c.into();
                    self.state = State::Key(scan);
                    Step::Held
                }
                '}' => self.close(tools, out),
                // The bracket at the end was forgotten.
                _ if self.name.is_some() && self.end.starts_with(c) => match self.close(tools, out) {
                    Step::Used => self.behind(c),
                    step => step,
                },
                _ => held_if(c == ',' || c.is_whitespace()),
            },
            State::Key(scan) => {
                self.text.push(c);
                if scan.push(c) == Place::Last {
                    self.state = State::Colon;
                }
                Step::Held
            }
            State::Colon => match c {
                ':' => {
                    let Ok(key) = serde_json::from_str::<String>(&self.text) else { return Step::Failed };
                    // An answer in JSON, not a call.
                    if tools.is_some() && !KEYS.contains(&key.as_str()) {
                        return Step::Failed;
                    }
                    self.text.clear();
                    self.state = State::Value(key, Scan::default());
                    Step::Held
                }
                _ => held_if(c.is_whitespace()),
            },
            State::Value(..) => self.value(c, tools, out),
            State::Arguments(scan, inside) => {
                out.arguments(c.encode_utf8(&mut [0; 4]));
                if scan.push(c) == Place::Inside {
                    return Step::Used;
                }
                if *inside {
                    self.state = State::Object;
                    return Step::Used;
                }
                // Only formats without an end have a header.
                self.forget();
                Step::Last
            }
            State::Behind => self.behind(c),
        }
    }

    fn before(&mut self, c: char, out: &mut Out) -> Step {
        match c {
            '{' if self.text.is_empty() => {
                self.state = State::Object;
                Step::Held
            }
            '[' if self.text.is_empty() && !self.in_list => {
                self.in_list = true;
                Step::Held
            }
            ']' if self.in_list && self.any => {
                self.state = State::Behind;
                self.behind(c)
            }
            // What the name stands in: `NAME[CALL_ID]ID[ARGS]{`.
            '{' => {
                let name = self.text.split('[').next().unwrap_or_default().trim();
                if name.is_empty() || name.contains(|c: char| c.is_whitespace() || c == '"') {
                    return Step::Failed;
                }
                out.call(name);
                out.arguments("{");
                let mut scan = Scan::default();
                scan.push(c);
                self.any = true;
                self.state = State::Arguments(scan, false);
                Step::Used
            }
            _ if self.text.is_empty() && (c.is_whitespace() || (c == ',' && self.any)) => Step::Held,
            _ => {
                // With an end, objects have no header.
                self.text.push(c);
                held_if(self.end.is_empty() && !self.in_list && self.text.len() < 1000)
            }
        }
    }

    fn value(&mut self, c: char, tools: Option<&Value>, out: &mut Out) -> Step {
        let State::Value(key, scan) = &mut self.state else { return Step::Failed };
        if self.text.is_empty() {
            if c.is_whitespace() {
                return Step::Held;
            }
            let arguments = matches!(key.as_str(), "arguments" | "parameters");
            if let (true, '{', Some(name)) = (arguments, c, &self.name) {
                if tools.is_some_and(|tools| function(tools, name).is_none()) {
                    return Step::Failed;
                }
                scan.push(c);
                out.call(name);
                out.arguments("{");
                (self.passed_on, self.any) = (true, true);
                self.state = State::Arguments(*scan, true);
                return Step::Used;
            }
        }
        let place = scan.push(c);
        if place != Place::Behind {
            self.text.push(c);
        }
        if place == Place::Inside {
            return Step::Held;
        }
        let text = std::mem::take(&mut self.text);
        match key.as_str() {
            "name" => match serde_json::from_str(&text) {
                Ok(Value::String(name)) if !name.is_empty() => self.name = Some(name),
                _ => return Step::Failed,
            },
            "arguments" | "parameters" => {
                self.arguments = Some(match serde_json::from_str(&text) {
                    // JSON in a text, or none.
                    Ok(Value::String(inner)) => inner,
                    Ok(Value::Null) => "{}".into(),
                    Ok(_) => text,
                    Err(_) => return Step::Failed,
                });
            }
            _ => {}
        }
        self.state = State::Object;
        if place == Place::Behind { self.push(c, tools, out) } else { Step::Held }
    }

    /// The object is over.
    fn close(&mut self, tools: Option<&Value>, out: &mut Out) -> Step {
        let Some(name) = &self.name else { return Step::Failed };
        if !self.passed_on {
            if tools.is_some_and(|tools| function(tools, name).is_none() || self.arguments.is_none()) {
                return Step::Failed;
            }
            out.call(name);
            out.arguments(self.arguments.as_deref().unwrap_or("{}"));
        }
        self.forget();
        if self.end.is_empty() && !self.in_list { Step::Last } else { Step::Used }
    }

    /// Gets ready for the next object.
    fn forget(&mut self) {
        self.text.clear();
        (self.name, self.arguments, self.passed_on, self.any) = (None, None, false, true);
        self.state = State::Behind;
    }

    fn behind(&mut self, c: char) -> Step {
        if self.text.is_empty() {
            match c {
                ',' | ';' => {
                    self.state = State::Before;
                    return Step::Used;
                }
                '{' => {
                    self.state = State::Object;
                    return Step::Held;
                }
                ']' if self.in_list => {
                    self.in_list = false;
                    return if self.end.is_empty() { Step::Last } else { Step::Used };
                }
                // One bracket too many.
                '}' | ']' => return Step::Used,
                _ if c.is_whitespace() => return Step::Used,
                _ => {}
            }
        }
        self.text.push(c);
        if self.text == self.end {
            Step::Last
        } else if self.end.starts_with(&self.text) {
            Step::Held
        } else if self.text.chars().count() == 1 {
            Step::Behind
        } else {
            Step::Failed
        }
    }

    /// The answer is over. Whether all that was held is used up.
    pub(super) fn finish(&mut self, out: &mut Out) -> bool {
        match self.state {
            // Only brackets at the end are missing.
            State::Object if self.name.is_some() && (self.passed_on || self.arguments.is_some()) => {
                self.close(None, out);
                true
            }
            State::Arguments(..) => true,
            State::Before | State::Behind => self.any && self.text.is_empty(),
            _ => false,
        }
    }
}

fn held_if(condition: bool) -> Step {
    if condition { Step::Held } else { Step::Failed }
}
