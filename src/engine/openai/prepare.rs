//! Requests in OpenAI's JSON to those of the engine: texts become tokens, and what answers have to look like becomes rules. Nothing
//! of it needs the engine, so that a server prepares a request while the model writes other answers.

use super::answer::Answer;
use super::body::{Ending, Prompt};
use super::contrast::{Contrasted, OtherPrompt};
use super::fields::wrong;
use super::{Body, Stamp, form, message};
use crate::chat::{AnswerReader, CallRules, ChatTemplate, Message, RenderOptions};
use crate::engine::{Against, Engine, Overflow, Request, overflow};
use crate::error::{Error, Result};
use crate::sample::{Compiler, Constraint, Params, Rule};
use crate::tokenizer::Tokenizer;
use serde_json::Value;
use std::sync::Arc;

/// What prepares requests for a [`Service`](super::Service): all of it that their prompts and rules follow from. Cheap to clone.
#[derive(Clone)]
pub struct Preparer {
    tokenizer: Arc<Tokenizer>,
    template: Result<Arc<ChatTemplate>>,
    /// Why the model writes no answers, if it does not.
    writes: Result<()>,
    /// Most tokens of a prompt and its answer.
    room: usize,
    /// Name that answers carry where a request has none.
    pub(super) name: String,
    /// Settings that a request need not name.
    pub(super) defaults: Params,
    /// Most choices of a request.
    pub(super) limit: usize,
    compiler: Option<Arc<dyn Compiler>>,
}

/// A request that only waits to be queued ([`Service::submit_prepared`](super::Service::submit_prepared)).
pub struct Prepared {
    /// One a choice.
    pub(super) requests: Vec<Request>,
    pub(super) answer: Answer,
    pub(super) stream: bool,
}

/// What makes a rule of a constraint.
pub(super) type Compile<'a> = &'a dyn Fn(&Constraint) -> Result<Box<dyn Rule>>;

/// A request of the engine's.
#[derive(Clone)]
pub(super) struct Asked {
    pub(super) request: Request,
    /// What reads its answer.
    pub(super) reader: Option<AnswerReader>,
    /// Messages that were left out of its prompt.
    pub(super) dropped: usize,
}

impl Preparer {
    pub(super) fn new(engine: &Engine, template: Result<ChatTemplate>, name: &str) -> Self {
        Preparer {
            tokenizer: Arc::clone(engine.tokenizer()),
            template: template.map(Arc::new),
            writes: engine.check_writes(),
            room: engine.room(),
            name: name.to_string(),
            defaults: Params::default(),
            limit: usize::MAX,
            compiler: None,
        }
    }

    /// The model's tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The chat template, or why there is none.
    pub(super) fn template(&self) -> Result<&ChatTemplate> {
        self.template.as_deref().map_err(Error::clone)
    }

    /// See [`Service::set_compiler`](super::Service::set_compiler), whose requests this one does not touch.
    pub fn set_compiler(&mut self, compiler: Box<dyn Compiler>) {
        self.compiler = Some(Arc::from(compiler));
    }

    /// Prepares a request for an answer: the JSON of OpenAI's chat completions (`messages`) or completions (`prompt`).
    ///
    /// # Errors
    /// See [`Body::from_value`] and [`Preparer::prepare`].
    pub fn prepare_json(&self, request: &Value, stamp: &Stamp<'_>) -> Result<Prepared> {
        self.prepare(Body::over(request, &self.defaults)?, stamp)
    }

    /// Prepares a request that is parsed. A grammar may take seconds to compile, and so may a text of megabytes.
    ///
    /// # Errors
    /// [`crate::Kind::InvalidRequest`] for a model that writes no answers, more choices than are written at once, and a role that the
    /// model does not know; see also [`Compiler::compile`] and [`ChatTemplate::render_with`].
    pub fn prepare(&self, body: Body, stamp: &Stamp<'_>) -> Result<Prepared> {
        self.check(&body)?;
        let (mut answer, stream) = (Answer::new(&body, stamp, &self.name), body.stream);
        let requests = answer.of(self.requests(body, stamp.seed)?);
        Ok(Prepared { requests, answer, stream })
    }

    /// Refuses what needs no preparing to be refused.
    pub(super) fn check(&self, body: &Body) -> Result<()> {
        self.writes.clone()?;
        let choices = body.n_choices();
        if choices > self.limit {
            let message = format!("{choices} choices; at most {} are answered at once", self.limit);
            return Err(Error::invalid_request(message).in_field("prompt"));
        }
        Ok(())
    }

    /// How many tokens the prompts of a request have, as [`Preparer::prepare`] would read them; choices share theirs.
    ///
    /// # Errors
    /// See [`Body::from_value`] and [`ChatTemplate::render_with`].
    pub fn count_tokens(&self, request: &Value) -> Result<usize> {
        let body = Body { choices: 1, constraint: None, calls: None, ..Body::from_value(request)? };
        Ok(self.requests(body, 0)?.iter().map(|asked| asked.request.prompt.len()).sum())
    }

    /// The tokens of a request's only prompt, or of its messages, of which the last one is whole.
    pub(super) fn tokens(&self, request: &Value) -> Result<Vec<u32>> {
        let body = Body::from_value(request)?;
        let body = Body { choices: 1, constraint: None, calls: None, ending: Ending::Message, ..body };
        let mut requests = self.requests(body, 0)?;
        match (requests.pop(), requests.is_empty()) {
            (Some(asked), true) => Ok(asked.request.prompt),
            _ => Err(wrong("prompt", "must be one text")),
        }
    }

    fn rule(&self, constraint: &Constraint) -> Result<Box<dyn Rule>> {
        let none = "answers are plain text here; there is nothing that compiles grammars";
        self.compiler.as_ref().ok_or_else(|| Error::invalid_request(none))?.compile(constraint)
    }

    /// The engine's requests, one a choice. `seed` is taken where the body has none, and each further choice of a prompt has the next
    /// one.
    fn requests(&self, mut body: Body, seed: u64) -> Result<Vec<Asked>> {
        body.request = body.settings(&self.tokenizer, seed);
        let (seed, choices) = (body.request.params.seed, body.choices.max(1));
        let rule = body.constraint.as_ref();
        let rule = rule.map(|form| self.rule(form).map_err(|e| form::refused(form, e))).transpose()?;
        let asked = match body.prompts {
            Some(prompts) => {
                let tokens = |prompt| match prompt {
                    Prompt::Text(text) => self.tokenizer.prompt(&text, false),
                    Prompt::Tokens(tokens) => tokens,
                };
                body.request.rules.extend(rule);
                if let Some(Contrasted { from: OtherPrompt::Prompt(prompt), contrast }) = body.contrast {
                    body.request.against = Some(Against { prompt: tokens(prompt), contrast });
                }
                let requests = prompts.into_iter().map(tokens).map(|prompt| Request { prompt, ..body.request.clone() });
                requests.map(|request| Asked { request, reader: None, dropped: 0 }).collect()
            }
            None => vec![self.chat(body, rule)?],
        };
        let seeded = |asked: Asked| {
            (0..choices as u64).map(move |i| {
                let mut asked = asked.clone();
                asked.request.params.seed = seed.wrapping_add(i);
                asked
            })
        };
        Ok(asked.into_iter().flat_map(seeded).collect())
    }

    /// The request of a chat; `rule` is that of its answer.
    fn chat(&self, body: Body, mut rule: Option<Box<dyn Rule>>) -> Result<Asked> {
        let mut messages =
            body.messages.ok_or_else(|| wrong("messages", "is missing; or give a prompt to complete"))?;
        let (template, tokenizer) = (self.template()?, &*self.tokenizer);
        message::check_roles(&mut messages, "messages", template)?;
        let variables = match body.effort {
            Some(effort) => {
                let variables = template.with_effort(&effort, body.variables.unwrap_or_default());
                Some(variables.map_err(|e| wrong("reasoning_effort", e))?)
            }
            None => body.variables,
        };
        let options = RenderOptions {
            tools: body.tools.as_ref(),
            add_generation_prompt: body.ending == Ending::Answer,
            variables: variables.as_ref(),
        };
        let render = |messages: &[Message]| match body.ending {
            Ending::Within => template.render_continued(messages, &options),
            _ => template.render_with(messages, &options),
        };
        // Two texts share the context.
        let room = if body.contrast.is_some() { self.room / 2 } else { self.room };
        let shift = |messages: &mut Vec<Message>| match body.overflow {
            Overflow::Error => Ok(0),
            Overflow::Shift => overflow::shift(tokenizer, room, messages, &render),
        };
        let against = match body.contrast {
            Some(Contrasted { from: OtherPrompt::Messages(mut others), contrast }) => {
                message::check_roles(&mut others, "contrast.messages", template)?;
                let prompt = shift(&mut others).and_then(|_| render(&others));
                let prompt = prompt.map_err(|e| e.in_field("contrast.messages"))?;
                Some(Against { prompt: tokenizer.prompt(&prompt, true), contrast })
            }
            _ => None,
        };
        let dropped = shift(&mut messages)?;
        let prompt = render(&messages)?;
        let mut reader = template.answer_reader(tokenizer, &options, &prompt);
        if let (Ending::Within, Some(last)) = (body.ending, messages.last()) {
            // The reader has to know the beginning of the message, of which it reports nothing.
            reader.push(&last.content.text()?, false);
        }
        let mut request = Request { prompt: tokenizer.prompt(&prompt, true), against, ..body.request };
        request.shown = reader.markers().iter().filter_map(|marker| tokenizer.token(marker)).collect();
        request.stop.extend(reader.stop().map(str::to_owned));
        let form = body.constraint.as_ref().map(form::lark);
        let channels = form.is_some() && template.has_channels(tokenizer, &options);
        let grammar = match (&body.calls, &form) {
            (Some(calls), form) => {
                let grammar = template.call_grammar(tokenizer, &options, calls, form.as_deref());
                let strict = body
                    .tools
                    .as_ref()
                    .and_then(message::first_strict)
                    .filter(|_| !calls.required && calls.names.is_empty());
                let field = || strict.map_or("tool_choice".into(), |i| format!("tools[{i}].function.strict"));
                Some(grammar.map_err(|e| wrong(field(), e))?)
            }
            // Where calls are known, the model may make some instead of an answer in this form.
            (None, Some(form)) if body.tools.is_some() => {
                let rules = CallRules { one: body.one_call, ..CallRules::default() };
                template.call_grammar(tokenizer, &options, &rules, Some(form)).ok()
            }
            (None, Some(form)) if channels => Some(template.channel_grammar(tokenizer, form)),
            _ => None,
        };
        if let Some(grammar) = grammar {
            let (tools, compile) = (body.tools.as_ref(), |form: &Constraint| self.rule(form));
            rule = Some(compile(&Constraint::Lark(grammar)).map_err(|e| form::refused_tools(tools, &compile, e))?);
        }
        request.rules.extend(form::behind_thoughts(&reader, tokenizer, &prompt, body.thinking_token_budget, rule)?);
        Ok(Asked { request, reader: Some(reader), dropped })
    }
}

impl Body {
    /// What the engine is asked, but for prompts and rules; `seed` is taken where the body has none.
    pub fn settings(&self, tokenizer: &Tokenizer, seed: u64) -> Request {
        let mut request = self.request.clone();
        request.params.seed = self.seed.unwrap_or(seed);
        if let Some(breakers) = self.breakers.as_ref().filter(|_| request.params.dry_multiplier > 0.0) {
            request.params.dry_breakers = tokenizer.tokens_with(breakers);
        }
        let prediction = self.prediction.as_ref().map(|text| tokenizer.encode(text, false));
        request.prediction = prediction.unwrap_or_default();
        request
    }
}
