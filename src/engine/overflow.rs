//! Conversations that outgrow the context: their oldest turns give way.

use super::Engine;
use crate::chat::Message;
use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;
use std::str::FromStr;

/// What becomes of a conversation that is longer than the context.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overflow {
    /// It is refused ([`crate::Kind::PromptTooLong`]).
    #[default]
    Error,
    /// Its oldest turns are left out ([`Engine::shift`]).
    Shift,
}

impl FromStr for Overflow {
    type Err = Error;

    fn from_str(text: &str) -> Result<Overflow> {
        match text {
            "error" => Ok(Overflow::Error),
            "shift" => Ok(Overflow::Shift),
            _ => Err(Error::invalid_request(format!("overflow is {text:?}; it may be error or shift"))),
        }
    }
}

/// Makes the prompt of a conversation.
type Render<'a> = &'a dyn Fn(&[Message]) -> Result<String>;

impl Engine {
    /// Leaves the oldest turns of a conversation out where its prompt, by `render`, would take more than three quarters of the
    /// context: the rest is for the answer. The system's messages in front and the last turn stay. A turn begins with the user, so a call
    /// of a tool goes with its result, and with the answer to it. Returns how many messages went.
    ///
    /// What goes is counted in steps of half of that, so that several turns begin alike and what was read of them is of use: it is read
    /// once more only when the next step goes.
    ///
    /// # Errors
    /// Those of `render`.
    pub fn shift(&self, messages: &mut Vec<Message>, render: Render<'_>) -> Result<usize> {
        shift(&self.tokenizer, self.room(), messages, render)
    }
}

/// [`Engine::shift`] where `room` tokens are the context.
pub(super) fn shift(
    tokenizer: &Tokenizer,
    room: usize,
    messages: &mut Vec<Message>,
    render: Render<'_>,
) -> Result<usize> {
    let count = |messages: &[Message]| Ok::<_, Error>(tokenizer.prompt(&render(messages)?, true).len());
    let (limit, total) = (room * 3 / 4, count(messages)?);
    if total <= limit {
        return Ok(0);
    }
    let goal = total.saturating_sub((total - limit).next_multiple_of((limit / 2).max(1)));
    let system = messages.iter().take_while(|m| m.role == "system" || m.role == "developer").count();
    let begins = |i: &usize| messages[*i].role == "user" && messages[i - 1].role != "user";
    let turns: Vec<usize> = (system + 1..messages.len()).filter(begins).collect();
    let from = |turn: usize| [&messages[..system], &messages[turns[turn]..]].concat();
    // The first turn from which on it is short enough, else the last one.
    let (mut turn, mut end) = (0, turns.len().saturating_sub(1));
    while turn < end {
        let middle = usize::midpoint(turn, end);
        match count(&from(middle))? <= goal {
            true => end = middle,
            false => turn = middle + 1,
        }
    }
    let first = turns.get(turn).copied().unwrap_or(system);
    messages.drain(system..first);
    Ok(first - system)
}
