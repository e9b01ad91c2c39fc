//! Messages to the prompt that a model was trained on, by the Jinja template in its file.
//!
//! Templates come from strangers: they run without access to anything but the messages, on a fuel budget that bounds
//! both their time and their memory. The environment is that of the PyPI package transformers (`trim_blocks`,
//! `lstrip_blocks`, Python's methods and JSON spelling), since templates are written against it.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod answer;
mod date;
mod environment;
mod filters;
mod forms;
mod json;
mod message;
mod python;
mod source;

pub(crate) use answer::inline_schema;
pub use answer::{AnswerReader, CallRules, Marked, Part as AnswerPart};
pub use message::{Content, Message, Part};

use crate::error::{Error, Result};
use crate::gguf::Metadata;
use crate::tokenizer::Tokenizer;
use environment::Raised;
use forms::{Forms, Probes};
use minijinja::value::{Serde, Value};
use minijinja::{Environment, ErrorKind};

const DEFAULT: &str = "chat_template";
const TOOL_USE: &str = "tool_use";

/// A model's chat template, compiled.
pub struct ChatTemplate {
    env: Environment<'static>,
    source: String,
    bos: String,
    eos: String,
    has_tool_use: bool,
    probes: Probes,
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
            env: environment::new()?,
            source: source.to_owned(),
            bos: bos.to_owned(),
            eos: eos.to_owned(),
            has_tool_use: false,
            probes: Probes::default(),
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

    /// The prompt of a conversation. Where a template refuses a system message (Gemma 2) or passes over it, its text goes
    /// in front of the first user message. What has several forms (content, arguments of calls) is given in the form that
    /// the template reads.
    ///
    /// # Errors
    /// [`crate::Kind::InvalidRequest`] when the template refuses the messages, knows no tools or leaves out what the user
    /// says last, or when a message holds something other than text; [`crate::Kind::BadFile`] when the template itself
    /// fails.
    pub fn render_with(&self, messages: &[Message], options: &RenderOptions) -> Result<String> {
        let tools = options.tools.filter(|tools| !tools.as_array().is_some_and(Vec::is_empty));
        if let Some(tools) = tools.filter(|_| !self.has_tool_use && !self.knows_tools()) {
            if self.reads_tools_of_system() {
                let messages = message::with_tools(messages, tools);
                return self.render_with(&messages, &RenderOptions { tools: None, ..*options });
            }
            return Err(Error::invalid_request(
                "this model's chat template knows no tools; leave tools out, or take a model that was trained with them",
            ));
        }
        let mut variables = options.variables.cloned();
        if let Some(variables) = &mut variables
            && let Some((name, value)) = self.switched(variables)
        {
            variables.insert(name.to_owned(), value);
        }
        let options = &RenderOptions { tools, variables: variables.as_ref(), ..*options };
        let refused = match self.try_forms(messages, options) {
            Err(error) if error.kind() == crate::Kind::InvalidRequest => error,
            Ok(_) if self.drops_system() && messages.first().is_some_and(Message::is_system) => Error::invalid_request(
                "the model's chat template passes over the system message, and there is no user message to put it in",
            ),
            done => return done,
        };
        match message::merge_system(messages) {
            Some(merged) => self.try_forms(&merged, options).map_err(|_| refused),
            None => Err(refused),
        }
    }

    /// The prompt of a conversation whose last message, the assistant's, is to be gone on with: it ends where that message does.
    ///
    /// # Errors
    /// [`crate::Kind::InvalidRequest`] when the last message is not the assistant's, or is left out; see also
    /// [`ChatTemplate::render_with`].
    pub fn render_continued(&self, messages: &[Message], options: &RenderOptions) -> Result<String> {
        let Some((last, before)) = messages.split_last().filter(|(last, _)| last.role == "assistant") else {
            return Err(Error::invalid_request("only a message of the assistant can be gone on with, as the last one"));
        };
        let mut marked = before.to_vec();
        let content = Content::Text(last.content.text()? + forms::MARKER);
        marked.push(Message { content, ..last.clone() });
        let mut prompt = self.render_with(&marked, &RenderOptions { add_generation_prompt: false, ..*options })?;
        let end = prompt.rfind(forms::MARKER).ok_or_else(|| {
            Error::invalid_request("the model's chat template leaves out the message that is to be gone on with")
        })?;
        prompt.truncate(end);
        Ok(prompt)
    }

    /// The first of the forms in which the template takes the messages and keeps what the user says last; when there is
    /// none, what was wrong with the first.
    fn try_forms(&self, messages: &[Message], options: &RenderOptions) -> Result<String> {
        let mut first_error = None;
        for forms in self.forms_of(messages) {
            let error = match self.fill(messages, options, forms) {
                Ok(prompt) if self.loses_user(messages, options, forms, &prompt) => Error::invalid_request(
                    "the model's chat template leaves out the last message of the user; use --raw, or another template",
                ),
                Ok(prompt) => return Ok(prompt),
                Err(error) => error,
            };
            first_error.get_or_insert(error);
        }
        Err(first_error.unwrap_or_else(|| Error::invalid_request("there is no form to give the messages in")))
    }

    /// Whether the text of the last message, if it is the user's, gets lost: neither it nor other words in its place are in
    /// the prompt. Templates may edit a text (trim it, take out "/think"), so its words alone would not tell. One that shows
    /// no user's words at all is not asked for them: its prompt is fixed.
    fn loses_user(&self, messages: &[Message], options: &RenderOptions, forms: Forms, prompt: &str) -> bool {
        let Some((message, before)) = messages.split_last().filter(|(last, _)| last.role == "user") else {
            return false;
        };
        let text = message.content.text().unwrap_or_default();
        let text = text.trim();
        // A short text may be in the prompt by chance.
        if text.is_empty() || (text.len() > 12 && prompt.contains(text)) || !self.shows_users() {
            return false;
        }
        let mut marked = before.to_vec();
        marked.push(Message { content: Content::Text(forms::MARKER.into()), ..message.clone() });
        self.fill(&marked, options, forms).is_ok_and(|prompt| !forms::shows(&prompt, forms::MARKER))
    }

    /// The prompt of the messages in these forms.
    fn fill(&self, messages: &[Message], options: &RenderOptions, forms: Forms) -> Result<String> {
        let messages: Vec<Value> = messages.iter().map(|m| m.to_value(forms)).collect::<Result<_>>()?;
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
        environment::on_a_deep_stack(|| template.render(Value::from_pairs(context))).map_err(failed)
    }

    fn add(&mut self, name: &'static str, source: &str) -> Result<()> {
        let source = source::prepare(source);
        environment::on_a_deep_stack(|| self.env.add_template_owned(name, source)).map_err(|e| {
            Error::bad_file(format!("the model's chat template does not parse: {}", describe(&e))).caused_by(e)
        })
    }
}

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
