//! What an answer has to look like, as requests say it: `response_format`, `grammar` and `regex`; and the thoughts in front
//! of it.

use super::fields::{flag, object, only_if, text, wrong};
use super::prepare::Compile;
use crate::chat::{AnswerReader, inline_schema};
use crate::error::{Error, Kind, Result};
use crate::sample::{Budget, Constraint, Rule};
use crate::tokenizer::Tokenizer;
use serde_json::{Value, json};

/// The value of `response_format`; `None` for plain text.
pub(super) fn response_format(value: &Value) -> Result<Option<Constraint>> {
    object(value, "response_format")?;
    let kind = text(&value["type"], "response_format.type")?;
    known(value, "response_format", &["type", if kind == "json_object" { "schema" } else { "json_schema" }])?;
    match kind {
        "text" => Ok(None),
        // A schema beside the type is llama.cpp's way to say one.
        "json_object" if !value["schema"].is_null() => {
            schema(&value["schema"], "response_format.schema", false).map(Some)
        }
        "json_object" => Ok(Some(Constraint::Schema { schema: json!({"type": "object"}), strict: true })),
        "json_schema" => json_schema(&value["json_schema"]).map(Some),
        _ => Err(wrong("response_format.type", "must be \"text\", \"json_object\" or \"json_schema\"")),
    }
}

fn json_schema(value: &Value) -> Result<Constraint> {
    let at = |field: &str| format!("response_format.json_schema.{field}");
    known(value, "response_format.json_schema", &["name", "description", "schema", "strict"])?;
    for name in ["name", "description"].into_iter().filter(|name| !value[name].is_null()) {
        text(&value[name], at(name))?;
    }
    let strict = if value["strict"].is_null() { false } else { flag(&value["strict"], at("strict"))? };
    schema(&value["schema"], &at("schema"), strict)
}

fn schema(value: &Value, at: &str, strict: bool) -> Result<Constraint> {
    only_if(value.is_object() || value.is_boolean(), at, "must be a schema: an object, true or false")?;
    Ok(Constraint::Schema { schema: value.clone(), strict })
}

/// Checks that an object has no other fields.
fn known(value: &Value, at: &str, names: &[&str]) -> Result<()> {
    match object(value, at)?.iter().find(|(name, value)| !names.contains(&name.as_str()) && !value.is_null()) {
        Some((name, _)) => Err(wrong(format!("{at}.{name}"), "there is no such field; is it misspelt?")),
        None => Ok(()),
    }
}

/// The rule of a constraint in a grammar.
pub(super) fn lark(constraint: &Constraint) -> String {
    match constraint {
        Constraint::Schema { schema, strict } => inline_schema(schema.clone(), *strict),
        Constraint::Lark(text) => format!("%lark {{\n{text}\n}}"),
        Constraint::Regex(text) => format!("/{}/", slashes(text)),
    }
}

/// An expression without slashes and line ends that would end it.
fn slashes(expression: &str) -> String {
    let (mut text, mut escaped) = (String::new(), false);
    for c in expression.chars() {
        match c {
            '/' if escaped => text.push('/'),
            '/' => text.push_str("\\/"),
            '\n' if escaped => text.push('n'),
            '\n' => text.push_str("\\n"),
            _ => text.push(c),
        }
        escaped = c == '\\' && !escaped;
    }
    text
}

/// Says which field a constraint came from that cannot be kept.
pub(super) fn refused(constraint: &Constraint, error: Error) -> Error {
    let field = match constraint {
        Constraint::Schema { .. } => "response_format",
        Constraint::Lark(_) => "grammar",
        Constraint::Regex(_) => "regex",
    };
    if error.kind() == Kind::InvalidRequest { wrong(field, error) } else { error.in_field(field) }
}

/// Says which tool it is to whose parameters no call can be kept.
pub(super) fn refused_tools(tools: Option<&Value>, compile: Compile<'_>, error: Error) -> Error {
    let tools = tools.and_then(Value::as_array).into_iter().flatten().enumerate();
    let fault = |(i, tool): (usize, &Value)| {
        let (schema, strict) = (tool.pointer("/function/parameters")?.clone(), tool["function"]["strict"] == true);
        let error = compile(&Constraint::Schema { schema, strict }).err()?;
        Some(wrong(format!("tools[{i}].function.parameters"), error))
    };
    tools.into_iter().find_map(fault).unwrap_or_else(|| error.in_field("tools"))
}

/// The rule of an answer, and of the thought in front of it.
pub(super) fn behind_thoughts(
    reader: &AnswerReader,
    tokenizer: &Tokenizer,
    prompt: &str,
    budget: Option<usize>,
    rule: Option<Box<dyn Rule>>,
) -> Result<Option<Box<dyn Rule>>> {
    let marks = reader.thought_marks(rule.is_some());
    if budget.is_some() && marks.is_none() {
        let what = "the model has no thoughts that can be told from its answer";
        return Err(wrong("thinking_token_budget", what));
    }
    // A template that switches thoughts off puts an empty one behind the prompt.
    let marks = marks.filter(|[_, close, _]| budget.is_some() || rule.is_some() && !prompt.trim_end().ends_with(close));
    let Some(marks) = marks else { return Ok(rule) };
    let marks = marks.map(|mark| tokenizer.encode(mark, true));
    let budget = Budget::new(budget.unwrap_or(usize::MAX), marks, reader.is_thinking());
    Ok(Some(match rule {
        Some(rule) => Box::new(budget.then(rule, tokenizer.end_of_generation())),
        None => Box::new(budget),
    }))
}
