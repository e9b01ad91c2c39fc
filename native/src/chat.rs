//! `foreword chat`: a conversation in the terminal.

mod script;

use crate::args::ChatArgs;
use crate::run::{answer_to, summary};
use crate::{load, saved, term};
use foreword::chat::{ChatTemplate, Message};
use foreword::engine::{Done, Engine, FinishReason, Overflow, Request, TokenEvent};
use foreword::{Error, Kind, Result};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const HELP: &str = "/new begins a new chat, /system TEXT sets the system message, /stats shows times, /exit ends (or Ctrl-D); \
                    Ctrl-C stops an answer";

/// How a chat goes on whose last message has no room.
const FULL: &str = "/new begins a new chat; --context TOKENS gives longer ones room";

pub(crate) fn chat(args: &ChatArgs) -> Result<()> {
    if let Some(path) = &args.script {
        return script::play(args, path);
    }
    let started = load::clock();
    let mut chat = Chat::new(args)?;
    let spec = chat.engine.model().config();
    term::note(&format!("{} loaded in {:.0} ms; /help shows what you can type", spec.name, load::clock() - started));
    let mut editor =
        DefaultEditor::new().map_err(|e| Error::storage(format!("cannot set up the terminal: {e}")).caused_by(e))?;
    loop {
        match editor.readline("> ") {
            Ok(line) if line.trim().is_empty() => {}
            Ok(line) => {
                let _ = editor.add_history_entry(&line);
                if !chat.input(line.trim())? {
                    return Ok(());
                }
            }
            Err(ReadlineError::Interrupted) => term::note("Ctrl-D or /exit ends the chat"),
            Err(ReadlineError::Eof) => return Ok(()),
            Err(e) => return Err(Error::storage(format!("cannot read from the terminal: {e}")).caused_by(e)),
        }
    }
}

struct Chat<'a> {
    args: &'a ChatArgs,
    engine: Engine,
    template: ChatTemplate,
    system: Option<String>,
    messages: Vec<Message>,
    /// Of these, how many of the oldest were left out of the last prompt.
    left_out: usize,
    interrupted: Arc<AtomicBool>,
    last: String,
}

impl<'a> Chat<'a> {
    fn new(args: &'a ChatArgs) -> Result<Self> {
        let mut engine = load::engine(&args.model, &args.load)?;
        load::prefill(&mut engine, &args.model, &args.early)?;
        load::speculate(&mut engine, &args.model, &args.guess, &args.load)?;
        let template = load::chat_template(&engine)?;
        let interrupted = Arc::new(AtomicBool::new(false));
        let flag = interrupted.clone();
        ctrlc::set_handler(move || flag.store(true, Ordering::Relaxed))
            .map_err(|e| Error::storage(format!("cannot listen to Ctrl-C: {e}")).caused_by(e))?;
        let system = args.system.clone();
        let (messages, last) = (Vec::new(), "nothing yet".into());
        let mut chat = Chat { args, engine, template, system, messages, left_out: 0, interrupted, last };
        chat.reopen()?;
        Ok(chat)
    }

    /// Goes on with the chat of `--session`, where there is one.
    fn reopen(&mut self) -> Result<()> {
        let Some(path) = &self.args.session else { return Ok(()) };
        let started = load::clock();
        let Some((mut messages, tokens)) = saved::open(&mut self.engine, path, self.args.system.as_ref())? else {
            return Ok(());
        };
        if messages.first().is_some_and(|first| first.role == "system") {
            self.system = Some(messages.remove(0).content.text()?);
        }
        let took = load::clock() - started;
        term::note(&format!("{} messages of {}, {tokens} tokens in {took:.0} ms", messages.len(), path.display()));
        self.messages = messages;
        Ok(())
    }

    /// All messages, the system's first.
    fn conversation(&self) -> Vec<Message> {
        let system = self.system.iter().map(|text| Message::new("system", text));
        system.chain(self.messages.iter().cloned()).collect()
    }

    /// The messages that have room in the context, by `--overflow`.
    fn in_context(&mut self) -> Result<Vec<Message>> {
        let mut messages = self.conversation();
        if self.args.overflow == Overflow::Shift {
            let render = |messages: &[Message]| self.template.render(messages, None, true);
            let left_out = self.engine.shift(&mut messages, &render)?;
            if left_out > 0 && left_out != self.left_out {
                term::note(&format!("the context is full: the oldest {left_out} messages are left out from here on"));
            }
            self.left_out = left_out;
        }
        Ok(messages)
    }

    /// Keeps the chat in the file of `--session`, and what is known of `messages`, which are its end. Where that fails the chat goes on.
    fn save(&mut self, messages: &[Message]) -> Result<()> {
        let Some(path) = &self.args.session else { return Ok(()) };
        let all = self.conversation();
        saved::save(&mut self.engine, path, messages, &all).or_else(|error| {
            term::print_error(&error);
            Ok(())
        })
    }

    /// Handles a line; `false` ends the chat.
    fn input(&mut self, line: &str) -> Result<bool> {
        let (command, rest) = line.split_once(' ').unwrap_or((line, ""));
        match command {
            "/exit" | "/quit" => return Ok(false),
            "/help" => term::note(HELP),
            "/stats" => term::note(&self.last),
            "/new" => self.messages.clear(),
            "/system" => {
                self.system = Some(rest.trim().to_string()).filter(|s| !s.is_empty());
                self.messages.clear();
            }
            _ if command.starts_with('/') => term::note(&format!("{command} is unknown; {HELP}")),
            _ => match self.say(line) {
                // These concern one message; the chat goes on.
                Err(error) if error.kind() == Kind::PromptTooLong => {
                    self.messages.pop();
                    term::print_error_with(&error, FULL);
                }
                Err(error) if error.kind() == Kind::InvalidRequest => {
                    self.messages.pop();
                    term::print_error(&error);
                }
                result => result?,
            },
        }
        Ok(true)
    }

    fn say(&mut self, line: &str) -> Result<()> {
        self.messages.push(Message::new("user", line));
        let (_, done) = self.answer(&mut |event| term::print(&event.text))?;
        let stopped = if done.reason == FinishReason::Cancelled { " [stopped]" } else { "" };
        term::print(&format!("{}{stopped}\n", done.text))?;
        self.last = summary(&self.engine, &done, 0.0);
        term::note(&self.last);
        Ok(())
    }

    /// Answers the last message; `token` gets each token. Returns the whole text.
    fn answer(&mut self, token: &mut dyn FnMut(&TokenEvent) -> Result<()>) -> Result<(String, Done)> {
        let mut messages = self.in_context()?;
        let prompt = self.engine.prompt(&self.template.render(&messages, None, true)?, true);
        let request = Request { prompt, ..load::request(&self.args.sample, &self.engine, &self.args.model, true)? };
        self.interrupted.store(false, Ordering::Relaxed);
        let flag = self.interrupted.clone();
        let mut answer = String::new();
        let done = answer_to(&mut self.engine, request, &mut || flag.load(Ordering::Relaxed), &mut |event| {
            answer.push_str(&event.text);
            token(event)
        })?;
        answer.push_str(&done.text);
        messages.push(Message::new("assistant", answer.clone()));
        self.messages.extend(messages.last().cloned());
        self.save(&messages)?;
        Ok((answer, done))
    }
}
