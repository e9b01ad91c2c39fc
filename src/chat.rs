//! Messages to the prompt that a model was trained on, by the Jinja template in its file.
//!
//! Templates come from strangers: they run without access to anything but the messages, on a fuel budget that bounds
//! both their time and their memory. The environment is that of the PyPI package transformers (`trim_blocks`,
//! `lstrip_blocks`, Python's methods and JSON spelling), since templates are written against it.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod date;
mod json;
mod message;

pub use message::{Content, Message, Part};

use crate::error::{Error, Result};
use crate::gguf::Metadata;
use crate::tokenizer::Tokenizer;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, Value};
use minijinja::{Environment, ErrorKind};
use std::fmt;

/// Instructions, and units of 64 bytes, that one prompt may cost: 256 MiB of text, far above any context.
const FUEL: u64 = 1 << 22;

const DEFAULT: &str = "chat_template";
const TOOL_USE: &str = "tool_use";

/// A model's chat template, compiled.
pub struct ChatTemplate {
    env: Environment<'static>,
    source: String,
    bos: String,
    eos: String,
    has_tool_use: bool,
    wants: Wants,
}

/// What a template expects of values that come in two forms.
#[derive(Clone, Copy)]
struct Wants {
    /// It writes the arguments of a tool call as JSON itself, so it wants an object and not a string.
    object_arguments: bool,
    /// It tells an assistant's message without content from an empty one.
    no_content: bool,
}

/// What [`ChatTemplate::render_with`] may be told beside the messages.
#[derive(Clone, Copy, Debug, Default)]
pub struct RenderOptions<'a> {
    /// Tools in OpenAI's form: an array of `{"type": "function", "function": {...}}`.
    pub tools: Option<&'a serde_json::Value>,
    /// Ends the prompt where the assistant's answer begins.
    pub add_generation_prompt: bool,
    /// Further variables of the template, as `enable_thinking`.
    pub variables: Option<&'a serde_json::Map<String, serde_json::Value>>,
}

impl ChatTemplate {
    /// The template in a model's file.
    ///
    /// # Errors
    /// [`crate::Kind::InvalidRequest`] when there is none, [`crate::Kind::BadFile`] when it does not parse.
    pub fn from_gguf(metadata: &Metadata, tokenizer: &Tokenizer) -> Result<Self> {
        let source = metadata.opt_str("tokenizer.chat_template")?.ok_or_else(|| {
            Error::invalid_request(
                "the model's file has no chat template: it may not be trained to chat; complete plain text instead \
                 (--raw, or the completions interface), or give a template",
            )
        })?;
        let text = |id: Option<u32>| {
            id.map(|id| String::from_utf8_lossy(&tokenizer.token_bytes(id)).into_owned()).unwrap_or_default()
        };
        let mut template = ChatTemplate::new(source, &text(tokenizer.bos()), &text(tokenizer.eos()))?;
        if let Some(source) = metadata.opt_str("tokenizer.chat_template.tool_use")? {
            template.add(TOOL_USE, source)?;
            template.has_tool_use = true;
        }
        Ok(template)
    }

    /// Compiles a template; `bos` and `eos` are the texts of the tokens that its `bos_token` and `eos_token` stand for.
    ///
    /// # Errors
    /// [`crate::Kind::BadFile`] when it does not parse, with the line.
    pub fn new(source: &str, bos: &str, eos: &str) -> Result<Self> {
        let mut template = ChatTemplate {
            env: environment()?,
            source: source.to_owned(),
            bos: bos.to_owned(),
            eos: eos.to_owned(),
            has_tool_use: false,
            wants: Wants::new(source),
        };
        template.add(DEFAULT, source)?;
        Ok(template)
    }

    /// The template's text.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Lets the template ask for the date (`strftime_now`). `clock` returns milliseconds since 1970-01-01 in the time
    /// zone that the date should be of. Without it templates take their own fallback, or fail if they have none.
    pub fn set_clock(&mut self, clock: fn() -> f64) {
        self.env.add_function("strftime_now", move |format: &str| date::strftime(format, clock()));
    }

    /// The prompt of a conversation. `tools` as in [`RenderOptions::tools`].
    ///
    /// # Errors
    /// As [`ChatTemplate::render_with`].
    pub fn render(
        &self,
        messages: &[Message],
        tools: Option<&serde_json::Value>,
        add_generation_prompt: bool,
    ) -> Result<String> {
        self.render_with(messages, &RenderOptions { tools, add_generation_prompt, variables: None })
    }

    /// The prompt of a conversation. Where a template refuses a system message (Gemma 2), its text goes in front of the
    /// first user message.
    ///
    /// # Errors
    /// [`crate::Kind::InvalidRequest`] when the template refuses the messages or knows no tools, or when a message holds
    /// something other than text; [`crate::Kind::BadFile`] when the template itself fails.
    pub fn render_with(&self, messages: &[Message], options: &RenderOptions) -> Result<String> {
        let tools = options.tools.filter(|tools| !tools.as_array().is_some_and(Vec::is_empty));
        let options = &RenderOptions { tools, ..*options };
        if tools.is_some() && !self.has_tool_use && !self.source.contains("tools") {
            return Err(Error::invalid_request(
                "this model's chat template knows no tools; leave tools out, or take a model that was trained with them",
            ));
        }
        let refused = match self.try_render(messages, options) {
            Err(error) if error.kind() == crate::Kind::InvalidRequest => error,
            done => return done,
        };
        match message::merge_system(messages) {
            Some(merged) => self.try_render(&merged, options).map_err(|_| refused),
            None => Err(refused),
        }
    }

    fn try_render(&self, messages: &[Message], options: &RenderOptions) -> Result<String> {
        let messages: Vec<Value> = messages.iter().map(|m| m.to_value(self.wants)).collect::<Result<_>>()?;
        let mut context: Vec<(String, Value)> = vec![
            ("messages".into(), Value::from(messages)),
            ("tools".into(), options.tools.map_or(Value::from(()), |tools| Value::from(Serde(tools)))),
            ("documents".into(), Value::from(())),
            ("add_generation_prompt".into(), Value::from(options.add_generation_prompt)),
            ("bos_token".into(), Value::from(self.bos.as_str())),
            ("eos_token".into(), Value::from(self.eos.as_str())),
        ];
        if let Some(variables) = options.variables {
            context.extend(variables.iter().map(|(k, v)| (k.clone(), Value::from(Serde(v)))));
        }
        let name = if options.tools.is_some() && self.has_tool_use { TOOL_USE } else { DEFAULT };
        let template = self.env.get_template(name).map_err(failed)?;
        template.render(Value::from_pairs(context)).map_err(failed)
    }

    fn add(&mut self, name: &'static str, source: &str) -> Result<()> {
        self.env.add_template_owned(name, without_generation_tags(source)).map_err(|e| {
            Error::bad_file(format!("the model's chat template does not parse: {}", describe(&e))).caused_by(e)
        })
    }
}

/// An environment that behaves as that of transformers.
fn environment() -> Result<Environment<'static>> {
    let mut env = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    env.set_syntax(syntax.map_err(|e| Error::unsupported(format!("template syntax: {e}")))?);
    env.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    env.set_fuel(Some(FUEL));
    env.add_function("raise_exception", |message: String| -> Result<Value, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Raised(message)))
    });
    env.add_filter("tojson", |value: &Value, args: Kwargs| -> Result<Value, minijinja::Error> {
        let indent: Option<usize> = args.get("indent")?;
        let ascii: Option<bool> = args.get("ensure_ascii")?;
        let _: Option<Value> = args.get("separators")?;
        let _: Option<Value> = args.get("sort_keys")?;
        args.assert_all_used()?;
        json::to_json(value, indent, ascii.unwrap_or(false)).map(Value::from)
    });
    Ok(env)
}

/// The template called `raise_exception`.
#[derive(Debug)]
struct Raised(String);

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

fn describe(e: &minijinja::Error) -> String {
    let what = e.detail().map_or_else(|| e.kind().to_string(), |detail| format!("{}: {detail}", e.kind()));
    match e.line() {
        Some(line) => format!("{what} (line {line})"),
        None => what,
    }
}

fn failed(e: minijinja::Error) -> Error {
    let line = e.line().map(|line| format!(" (line {line} of it)")).unwrap_or_default();
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&e);
    while let Some(error) = cause {
        if let Some(Raised(message)) = error.downcast_ref() {
            let text = format!("the model's chat template refuses these messages: {message}{line}");
            return Error::invalid_request(text);
        }
        cause = error.source();
    }
    let text = match e.kind() {
        ErrorKind::OutOfFuel => format!("the model's chat template does not come to an end{line}"),
        _ => format!("the model's chat template fails: {}", describe(&e)),
    };
    Error::bad_file(format!("{text}; use --raw, or another template")).caused_by(e)
}

impl Wants {
    fn new(source: &str) -> Self {
        let dense = source.chars().filter(|c| !c.is_whitespace()).map(|c| if c == '"' { '\'' } else { c });
        // `message['content']` and `message.content` alike.
        let dense = dense.collect::<String>().replace("']", "");
        let any = |signs: &[&str]| signs.iter().any(|sign| dense.contains(sign));
        Wants {
            object_arguments: any(&[
                "arguments|tojson",
                "arguments|items",
                "arguments.items()",
                "argumentsismapping",
                "argumentsisstring",
                "function|tojson",
                "tool_call|tojson",
                "tool_calls|tojson",
            ]),
            no_content: any(&["contentisnone", "contentisnotnone"]),
        }
    }
}

/// `{% generation %}` marks for training what the assistant said; here it is a block that changes nothing.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some((before, tag)) = rest.split_once("{%") {
        out.push_str(before);
        out.push_str("{%");
        let Some((body, after)) = tag.split_once("%}") else {
            rest = tag;
            continue;
        };
        let sign = |c: &char| matches!(c, '-' | '+');
        let (open, close) = (body.chars().next().filter(sign), body.chars().next_back().filter(sign));
        let replacement = match body.trim_matches(|c: char| c.is_whitespace() || sign(&c)) {
            "generation" => Some("if true"),
            "endgeneration" => Some("endif"),
            _ => None,
        };
        match replacement {
            Some(word) => {
                out.extend(open);
                out.push(' ');
                out.push_str(word);
                out.push(' ');
                out.extend(close);
                out.push_str("%}");
                rest = after;
            }
            // Only the opening is skipped: a string in a tag may hold the end mark.
            None => rest = tag,
        }
    }
    out.push_str(rest);
    out
}
