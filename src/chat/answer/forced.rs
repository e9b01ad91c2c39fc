//! Calls that are kept to what a request says of them: a grammar of the answer, in the form that the model writes calls in.

use super::formats::{self, ARGUMENTS, Format, NAME};
use super::{Body, ChatTemplate, RenderOptions};
use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;
use serde_json::{Map, Value, json};

/// Which calls an answer makes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallRules {
    /// Of these tools; of any where the list is empty.
    pub names: Vec<String>,
    /// One call at most, not several.
    pub one: bool,
    /// Calls have to be made, and nothing else is said. Otherwise the model may answer instead, or before it calls.
    pub required: bool,
}

impl ChatTemplate {
    /// A grammar (llguidance's dialect of Lark) of an answer that calls tools as `rules` say; `form` is the rule, in Lark, of what it
    /// may say instead, any text without. `options` are those that the prompt was made with. Where calls are written in JSON or
    /// Python, arguments fit the tool's parameters; in other formats texts in lists and objects, and conditions of plain texts, do
    /// not show in the grammar.
    ///
    /// # Errors
    /// [`crate::Kind::InvalidRequest`] where there is no such tool, where the form of the model's calls is not known, and for names
    /// that it cannot write.
    pub fn call_grammar(
        &self,
        tokenizer: &Tokenizer,
        options: &RenderOptions<'_>,
        rules: &CallRules,
        form: Option<&str>,
    ) -> Result<String> {
        let format = self.call_format(options, &|text| tokenizer.token(text).is_some());
        let unknown = "how the model writes calls is not known, so they cannot be kept to anything; tool_choice \"auto\" and tools \
                       that are not strict leave them to the model";
        let writer = Writer { format: format.ok_or_else(|| Error::invalid_request(unknown))?, tokenizer };
        let tools = options.tools.and_then(Value::as_array).into_iter().flatten().map(|tool| &tool["function"]);
        let wanted = |tool: &&Value| rules.names.is_empty() || rules.names.iter().any(|name| tool["name"] == **name);
        let tools: Vec<&Value> = tools.filter(wanted).collect();
        if tools.is_empty() {
            return Err(Error::invalid_request("there is no such tool"));
        }
        writer.grammar(&tools, rules, form)
    }

    /// Whether the model's answers have channels, of which one is what it says; then the grammar of an answer has to begin in front
    /// of them ([`ChatTemplate::channel_grammar`]).
    pub(crate) fn has_channels(&self, tokenizer: &Tokenizer, options: &RenderOptions<'_>) -> bool {
        let format = self.call_format(options, &|text| tokenizer.token(text).is_some());
        format.is_some_and(|format| format.body == Body::Harmony)
    }

    /// A grammar of an answer without calls whose final channel is what the rule `form` says.
    pub(crate) fn channel_grammar(&self, tokenizer: &Tokenizer, form: &str) -> String {
        let mut rules = Vec::new();
        Writer { format: formats::harmony(), tokenizer }.channels("final", Some(form), &mut rules);
        rules.join("\n")
    }
}

struct Writer<'a> {
    format: &'static Format,
    tokenizer: &'a Tokenizer,
}

impl Writer<'_> {
    fn grammar(&self, tools: &[&Value], wanted: &CallRules, answer: Option<&str>) -> Result<String> {
        let form = self.format.form;
        let mut rules = Vec::new();
        // What stands in front of the calls, where the model may say something else: a text up to what calls begin with.
        let begin = match (wanted.required, answer, self.format.begin.first()) {
            (true, ..) | (_, Some(_), _) | (.., None) => "",
            (.., Some(begin)) => begin,
        };
        let lead = if form.open.is_empty() { form.call } else { form.open };
        let begin = if lead.starts_with(begin) { begin } else { "" };
        let behind = |text: &'static str| text.strip_prefix(begin).unwrap_or(text);
        let (open, call) = match form.open {
            "" => ("", behind(form.call)),
            open => (behind(open), form.call),
        };
        let separate = self.format.body == Body::Harmony || !begin.is_empty() && form.open.is_empty();
        let more = match wanted.one || separate {
            true => String::new(),
            false => format!("({} call)*", self.literal(form.between)),
        };
        let calls = format!("{} call {more} {}", self.literal(open), self.literal(form.close));
        match (self.format.body, wanted.required, answer) {
            (Body::Harmony, true, _) => rules.push(format!("start: ({})? call", self.literal(form.open))),
            (Body::Harmony, false, answer) => self.channels("call | final", answer, &mut rules),
            (_, true, _) => rules.push(format!("start: {calls}")),
            (_, false, Some(answer)) => rules.extend([format!("start: {calls} | answer"), format!("answer: {answer}")]),
            (Body::BareJson, false, None) => {
                rules.extend([format!("start: {calls} | answer"), r"answer: /(?s:[^{\s].*)?/".to_owned()]);
            }
            (_, false, None) => {
                let (before, times) = (self.until(begin, "before", &mut rules), if wanted.one { "?" } else { "*" });
                rules.push(format!("start: ({before} {calls}){times} text"));
                rules.push(self.free(begin));
            }
        }
        let any: Vec<String> = (0..tools.len()).map(|i| format!("call_{i}")).collect();
        rules.push(format!("call: {}", any.join(" | ")));
        for (i, tool) in tools.iter().enumerate() {
            let name = tool["name"].as_str().unwrap_or_default();
            let plain = is_plain(name, "_-.");
            if !plain {
                return Err(Error::invalid_request(format!(
                    "a call of {name:?} cannot be kept to a form: one of a name of letters, digits, _ and - can"
                )));
            }
            let (front, back) = call.split_once(ARGUMENTS).unwrap_or((call, ""));
            let front = self.literal(&front.replace(NAME, name));
            rules.push(format!("call_{i}: {front} arguments_{i} {}", self.literal(back)));
            self.arguments(i, tool, &mut rules)?;
        }
        Ok(rules.join("\n"))
    }

    /// An answer in channels: comments, then the message that `last` names. The prompt ends in the first message's header; another
    /// one is written behind a thought.
    fn channels(&self, last: &str, answer: Option<&str>, rules: &mut Vec<String>) {
        let open = self.literal("<|start|>assistant");
        let (comment, say) =
            (self.literal("<|channel|>commentary<|message|>"), self.literal("<|channel|>final<|message|>"));
        let until = self.until("<|end|>", "comment_text", rules);
        rules.push(format!("comment: {comment} {until} {open}"));
        rules.push(format!("final: {say} answer"));
        rules.push(format!("answer: {}", answer.unwrap_or("/(?s:.*)/")));
        rules.push(format!("start: ({open})? comment* ({last})"));
    }

    /// A text up to a marker, and the marker; a rule of this name is made where there has to be one.
    fn until(&self, marker: &str, rule: &str, rules: &mut Vec<String>) -> String {
        match self.control(marker) {
            Some(id) => format!("/(?s:.*)/ <[{id}]>"),
            None => {
                rules.push(format!("{rule}[suffix={}]: /(?s:.*)/", Value::from(marker)));
                rule.to_owned()
            }
        }
    }

    /// The rule `text` of one without a marker.
    fn free(&self, marker: &str) -> String {
        match self.control(marker) {
            Some(_) => "text: /(?s:.*)/".to_owned(),
            None => format!("text: TEXT\nTEXT: /(?s:.*)/ & ~(/(?s:.*)/ {} /(?s:.*)/)", Value::from(marker)),
        }
    }

    /// The control token that a marker is.
    fn control(&self, marker: &str) -> Option<u32> {
        self.tokenizer.token(marker).filter(|&id| self.tokenizer.is_control(id))
    }

    /// A text, in which control tokens are such.
    fn literal(&self, text: &str) -> String {
        let found = self.format.markers().filter_map(|marker| Some((text.split_once(marker)?, self.control(marker)?)));
        match found.min_by_key(|((front, _), _)| front.len()) {
            Some(((front, back), id)) => format!("{} <[{id}]> {}", self.literal(front), self.literal(back)),
            None if text.is_empty() => String::new(),
            None => Value::from(text).to_string(),
        }
    }

    /// The rule of a tool's arguments, and those that it needs.
    fn arguments(&self, i: usize, tool: &Value, rules: &mut Vec<String>) -> Result<()> {
        let strict = tool["strict"] == true;
        let schema = parameters(&tool["parameters"]);
        let (signs, [open, equals, comma, close]) = match self.format.body {
            Body::Json | Body::BareJson | Body::Harmony => {
                rules.push(format!("arguments_{i}: {}", inline(schema, strict)));
                return Ok(());
            }
            Body::Tags => ("_-.", ["", ">\n", "", ""]),
            Body::Python => ("_", ["(", "=", ", ", ")"]),
            Body::Quoted(_) => ("_-.", ["{", ":", ",", "}"]),
        };
        let tags = self.format.body == Body::Tags;
        let required: Vec<&str> =
            schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
        let nothing = Map::new();
        let properties = schema.get("properties").and_then(Value::as_object).unwrap_or(&nothing);
        let (mut first, mut others) = (Vec::new(), Vec::new());
        let unnamed =
            required.iter().copied().filter(|key| !properties.contains_key(*key)).map(|key| (key, &Value::Null));
        for (k, (key, property)) in
            properties.iter().map(|(key, value)| (key.as_str(), value)).chain(unnamed).enumerate()
        {
            if !is_plain(key, signs) {
                let name = &tool["name"];
                return Err(Error::invalid_request(format!(
                    "the parameter {key:?} of {name} cannot be written by the model"
                )));
            }
            let front = if tags { format!("<parameter={key}") } else { key.to_owned() };
            let value = format!("value_{i}_{k}");
            rules.push(format!("argument_{i}_{k}: {} {value}", self.literal(&(front + equals))));
            self.value(&value, property, &schema, strict, rules);
            let list = if required.contains(&key) { &mut first } else { &mut others };
            list.push(format!("argument_{i}_{k}"));
        }
        let inner = series(&first, &others, &self.literal(comma));
        // Without arguments there may be nothing at all.
        let open = if open.is_empty() { "\"\"".into() } else { self.literal(open) };
        rules.push(format!("arguments_{i}: {open} {inner} {}", self.literal(close)));
        Ok(())
    }

    /// The rule of an argument's value, with what ends it.
    fn value(&self, rule: &str, property: &Value, schema: &Map<String, Value>, strict: bool, rules: &mut Vec<String>) {
        let of_texts = |all: &Vec<Value>| all.iter().map(|value| value.as_str().map(str::to_owned)).collect();
        let texts: Option<Vec<String>> = property["enum"].as_array().and_then(of_texts);
        let free = property["type"] == "string"
            && property.as_object().is_some_and(|fields| {
                fields.keys().all(|key| ["type", "description", "title", "default", "examples"].contains(&key.as_str()))
            });
        let any_of = |texts: Vec<String>, wrap: &dyn Fn(&str) -> String| {
            texts.iter().map(|text| self.literal(&wrap(text))).collect::<Vec<_>>().join(" | ")
        };
        let end = "\n</parameter>\n";
        rules.push(match (self.format.body, texts) {
            (Body::Tags, Some(texts)) => format!("{rule}: {}", any_of(texts, &|text| format!("{text}{end}"))),
            (Body::Tags, None) if free => format!("{rule}[suffix={}]: /(?s:.*)/", Value::from(end)),
            (Body::Quoted(quote), Some(texts)) => {
                format!("{rule}: {}", any_of(texts, &|text| format!("{quote}{text}{quote}")))
            }
            (Body::Quoted(quote), None) if free => {
                let quote = self.literal(quote);
                format!("{rule}: {quote} /[^<]*/ {quote}")
            }
            (body, _) => {
                let mut inner = if property.is_null() { json!({}) } else { property.clone() };
                for key in ["$defs", "definitions"] {
                    if let (Some(fields), Some(all)) = (inner.as_object_mut(), schema.get(key)) {
                        fields.insert(key.to_owned(), all.clone());
                    }
                }
                let end = if body == Body::Tags { self.literal(end) } else { String::new() };
                format!("{rule}: {} {end}", inline(inner, strict))
            }
        });
    }
}

/// What has to be there, then what may be, with commas between.
fn series(required: &[String], optional: &[String], comma: &str) -> String {
    let more = |all: &[String]| all.iter().map(|rule| format!("({comma} {rule})?")).collect::<Vec<_>>().join(" ");
    if !required.is_empty() {
        return format!("{} {}", required.join(&format!(" {comma} ")), more(optional));
    }
    let from = |(i, rule): (usize, &String)| format!("{rule} {}", more(optional.get(i + 1..).unwrap_or_default()));
    match optional {
        [] => String::new(),
        _ => format!("({})?", optional.iter().enumerate().map(from).collect::<Vec<_>>().join(" | ")),
    }
}

/// The schema of a call's arguments: an object of what the tool names, and of nothing else where it says nothing of that.
fn parameters(given: &Value) -> Map<String, Value> {
    let nothing = || Map::from_iter([("properties".to_owned(), json!({}))]);
    let mut schema = given.as_object().cloned().unwrap_or_else(nothing);
    schema.entry("type").or_insert("object".into());
    if schema.get("properties").is_some_and(Value::is_object) {
        schema.entry("additionalProperties").or_insert(false.into());
    }
    schema
}

/// JSON that fits a schema, on one line: the rule of it in Lark.
pub(crate) fn inline(schema: impl Into<Value>, strict: bool) -> String {
    let mut schema = match schema.into() {
        Value::Object(fields) => fields,
        other => Map::from_iter([("allOf".to_owned(), json!([other]))]),
    };
    let form = json!({"whitespace_flexible": false, "item_separator": ", ", "key_separator": ": ", "lenient": !strict});
    schema.insert("x-guidance".into(), form);
    format!("%json {}", Value::Object(schema))
}

fn is_plain(name: &str, signs: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || signs.contains(c))
}
