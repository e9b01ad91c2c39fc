//! Messages to the prompt that a model was trained on, by the chat template in its file.
//!
//! Templates are Jinja programs from strangers: they run with a limit on steps and see nothing but their arguments.

use crate::error::{Error, Result};
use crate::gguf::Metadata;
use crate::tokenizer::Tokenizer;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value};
use minijinja::{Environment, ErrorKind, context};
use serde::{Deserialize, Serialize};

/// A message of a conversation, in OpenAI's form.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant` or `tool`.
    pub role: String,
    /// The text; empty for an assistant that only calls tools.
    #[serde(default)]
    pub content: Content,
    /// Everything else, such as `tool_calls`, `tool_call_id` and `name`, as the template wants it.
    #[serde(flatten)]
    pub more: serde_json::Map<String, serde_json::Value>,
}

impl Message {
    /// A message of plain text.
    pub fn new(role: &str, text: impl Into<String>) -> Self {
        Message { role: role.to_string(), content: Content::Text(text.into()), more: serde_json::Map::new() }
    }
}

/// What a message says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Content {
    /// Plain text.
    Text(String),
    /// `{"type": "text", "text": …}`; other types are refused.
    Parts(Vec<Part>),
    /// Nothing.
    None(()),
}

impl Default for Content {
    fn default() -> Self {
        Content::None(())
    }
}

/// A part of a message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// `text`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The text.
    #[serde(default)]
    pub text: Option<String>,
}

impl Content {
    /// The text, parts joined by line breaks.
    ///
    /// # Errors
    /// [`crate::Kind::InvalidRequest`] for parts that are no text.
    pub fn text(&self) -> Result<String> {
        match self {
            Content::Text(text) => Ok(text.clone()),
            Content::None(()) => Ok(String::new()),
            Content::Parts(parts) => {
                let texts = parts.iter().map(|part| match (part.kind.as_str(), &part.text) {
                    ("text", Some(text)) => Ok(text.as_str()),
                    (kind, _) => Err(Error::invalid_request(format!("message parts of type {kind} are not supported"))),
                });
                Ok(texts.collect::<Result<Vec<_>>>()?.join("\n"))
            }
        }
    }
}

/// A model's chat template.
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos: String,
    eos: String,
}

/// Steps of a template before it is given up: real ones take a few thousand a message.
const FUEL: u64 = 10_000_000;
const NAME: &str = "chat template";

impl ChatTemplate {
    /// The template in a model's metadata, `tokenizer.chat_template`.
    ///
    /// # Errors
    /// [`crate::Kind::InvalidRequest`] when there is none, [`crate::Kind::BadFile`] when it is no valid template.
    pub fn from_gguf(metadata: &Metadata, tokenizer: &Tokenizer) -> Result<Self> {
        let source = metadata.opt_str("tokenizer.chat_template")?.ok_or_else(|| {
            Error::invalid_request(
                "the model has no chat template: it was not trained to chat; complete plain text instead (raw prompts)",
            )
        })?;
        let text = |id: Option<u32>| id.map_or(String::new(), |id| tokenizer.decode(&[id]));
        Self::new(source, &text(tokenizer.bos()), &text(tokenizer.eos()))
    }

    /// A template from its source and the texts of the special tokens.
    ///
    /// # Errors
    /// [`crate::Kind::BadFile`] when it is no valid template.
    pub fn new(source: &str, bos: &str, eos: &str) -> Result<Self> {
        let mut environment = Environment::new();
        // Whitespace as Hugging Face's transformers sets it.
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|e| Error::bad_file(explain(&e)))?);
        environment.set_fuel(Some(FUEL));
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function(
            "raise_exception",
            |message: String| -> std::result::Result<Value, minijinja::Error> {
                Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
            },
        );
        environment.add_template_owned(NAME, source.to_string()).map_err(|e| {
            Error::bad_file(format!("the model's chat template is no valid template: {}", explain(&e))).caused_by(e)
        })?;
        Ok(ChatTemplate { environment, bos: bos.to_string(), eos: eos.to_string() })
    }

    /// The prompt for `messages`. `tools` are OpenAI's function descriptions. With `add_generation_prompt` the prompt ends
    /// where the assistant begins to speak.
    ///
    /// # Errors
    /// [`crate::Kind::InvalidRequest`] with the template's own words when it refuses the messages.
    pub fn render(
        &self,
        messages: &[Message],
        tools: Option<&serde_json::Value>,
        add_generation_prompt: bool,
    ) -> Result<String> {
        let mut plain = Vec::with_capacity(messages.len());
        for message in messages {
            let mut message = message.clone();
            message.content = Content::Text(message.content.text()?);
            plain.push(message);
        }
        let template = self.environment.get_template(NAME).map_err(|e| Error::bad_file(explain(&e)))?;
        let rendered = template.render(context! {
            messages => Serde(plain),
            tools => tools.map(Serde),
            add_generation_prompt => add_generation_prompt,
            bos_token => self.bos.as_str(),
            eos_token => self.eos.as_str(),
        });
        rendered.map_err(|e| {
            Error::invalid_request(format!("the model's chat template does not accept these messages: {}", explain(&e)))
                .caused_by(e)
        })
    }
}

/// The message of a template error and its line.
fn explain(error: &minijinja::Error) -> String {
    let what = error.detail().map_or_else(|| error.kind().to_string(), str::to_string);
    error.line().map_or(what.clone(), |line| format!("{what} (line {line})"))
}
