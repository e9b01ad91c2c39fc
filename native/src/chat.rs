//! `foreword chat`: a conversation in the terminal.

use crate::args::ChatArgs;
use crate::run::{answer_to, summary};
use crate::{load, term};
use foreword::chat::{ChatTemplate, Message};
use foreword::engine::{Engine, FinishReason, Request};
use foreword::{Error, Kind, Result};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const HELP: &str = "/new begins a new chat, /system TEXT sets the system message, /stats shows times, /exit ends (or Ctrl-D); \
                    Ctrl-C stops an answer";

pub(crate) fn chat(args: &ChatArgs) -> Result<()> {
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
        Ok(Chat { args, engine, template, system, messages: Vec::new(), interrupted, last: "nothing yet".into() })
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
            _ => match self.answer(line) {
                // These concern one message; the chat goes on.
                Err(error) if matches!(error.kind(), Kind::PromptTooLong | Kind::InvalidRequest) => {
                    self.messages.pop();
                    term::print_error(&error);
                }
                result => result?,
            },
        }
        Ok(true)
    }

    fn answer(&mut self, line: &str) -> Result<()> {
        self.messages.push(Message::new("user", line));
        let mut messages: Vec<Message> = self.system.iter().map(|s| Message::new("system", s)).collect();
        messages.extend_from_slice(&self.messages);
        let prompt = self.engine.prompt(&self.template.render(&messages, None, true)?, true);
        let request = Request {
            prompt,
            params: load::params(&self.args.sample),
            max_tokens: self.args.sample.max_tokens,
            stop: self.args.sample.stop.clone(),
            ..Request::default()
        };
        self.interrupted.store(false, Ordering::Relaxed);
        let flag = self.interrupted.clone();
        let mut answer = String::new();
        let done = answer_to(&mut self.engine, request, &mut || flag.load(Ordering::Relaxed), &mut |event| {
            answer.push_str(&event.text);
            term::print(&event.text)
        })?;
        answer.push_str(&done.text);
        let stopped = if done.reason == FinishReason::Cancelled { " [stopped]" } else { "" };
        term::print(&format!("{}{stopped}\n", done.text))?;
        self.messages.push(Message::new("assistant", answer));
        self.last = summary(&done, 0.0);
        term::note(&self.last);
        Ok(())
    }
}
