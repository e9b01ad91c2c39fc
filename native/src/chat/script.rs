//! A chat by a script: lines that say something, change a question, ask once more and go back. Shows what each turn had to read.

use super::Chat;
use crate::args::ChatArgs;
use crate::run::{circles, read_stdin, summary};
use crate::term;
use foreword::chat::Message;
use foreword::{Error, Result};
use serde::Deserialize;
use serde_json::json;
use std::path::Path;

/// What lines may be.
const FORMS: &str =
    "a line is {\"say\": TEXT}, {\"edit\": N, \"say\": TEXT}, {\"regenerate\": true} or {\"branch\": N}";

/// A line as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    say: Option<String>,
    edit: Option<usize>,
    regenerate: Option<bool>,
    branch: Option<usize>,
}

/// What is done to a chat. Turns count from 1.
#[derive(Debug, PartialEq)]
enum Step {
    /// The next question.
    Say(String),
    /// Another question in the place of a turn's; what came behind it is gone.
    Edit(usize, String),
    /// Another answer to the last question.
    Regenerate,
    /// Goes on behind this turn.
    Branch(usize),
}

/// Plays the chat of `--script`.
pub(super) fn play(args: &ChatArgs, path: &Path) -> Result<()> {
    let text = match path.as_os_str() == "-" {
        true => read_stdin()?,
        false => std::fs::read_to_string(path)
            .map_err(|e| Error::storage(format!("cannot read the script: {e}")).caused_by(e).at(path.display()))?,
    };
    let lines = text.lines().zip(1..).filter(|(line, _)| !line.trim().is_empty());
    let at = |number: usize| move |error: Error| error.at(format!("line {number} of {}", path.display()));
    let steps: Vec<(usize, Step)> =
        lines.map(|(line, n)| Ok((n, parse(line).map_err(at(n))?))).collect::<Result<_>>()?;
    let mut chat = Chat::new(args)?;
    for (number, step) in steps {
        if step.apply(&mut chat.messages).map_err(at(number))? {
            turn(&mut chat).map_err(at(number))?;
        }
    }
    Ok(())
}

/// Answers the last question.
fn turn(chat: &mut Chat<'_>) -> Result<()> {
    let as_json = chat.args.json;
    let (text, done) = chat.answer(&mut |event| if as_json { Ok(()) } else { term::print(&event.text) })?;
    if !as_json {
        term::print(&format!("{}\n", done.text))?;
        term::note(&summary(&chat.engine, &done, 0.0));
        return Ok(());
    }
    let usage = &done.usage;
    term::print_json(&json!({
        "turn": chat.messages.len() / 2,
        "text": text,
        "finish_reason": done.reason.name(),
        "stop_reason": circles(&done).then_some("repetition"),
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "cached_tokens": usage.cached_tokens,
            "predicted_tokens": usage.predicted_tokens,
            "completion_tokens": usage.completion_tokens,
            "ttft_ms": usage.ttft_ms,
            "decode_tok_s": usage.decode_tok_s(),
        },
    }))
}

fn parse(line: &str) -> Result<Step> {
    let line: Line =
        serde_json::from_str(line).map_err(|e| Error::invalid_request(format!("{e}; {FORMS}")).caused_by(e))?;
    match line {
        Line { say: Some(text), edit: None, regenerate: None, branch: None } => Ok(Step::Say(text)),
        Line { say: Some(text), edit: Some(turn), regenerate: None, branch: None } => Ok(Step::Edit(turn, text)),
        Line { say: None, edit: None, regenerate: Some(true), branch: None } => Ok(Step::Regenerate),
        Line { say: None, edit: None, regenerate: None, branch: Some(turn) } => Ok(Step::Branch(turn)),
        _ => Err(Error::invalid_request(FORMS)),
    }
}

impl Step {
    /// Changes the messages, a question and an answer of each turn; returns whether the last one is to be answered.
    fn apply(self, messages: &mut Vec<Message>) -> Result<bool> {
        let turns = messages.len() / 2;
        let known = |turn: usize| match (1..=turns).contains(&turn) {
            true => Ok(turn),
            false => Err(Error::invalid_request(format!("turn {turn} of a chat of {turns} turns"))),
        };
        match self {
            Step::Say(text) => messages.push(Message::new("user", text)),
            Step::Edit(turn, text) => {
                messages.truncate(2 * (known(turn)? - 1));
                messages.push(Message::new("user", text));
            }
            Step::Regenerate => messages.truncate(2 * known(turns)? - 1),
            Step::Branch(turn) => {
                messages.truncate(2 * known(turn)?);
                return Ok(false);
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_script() {
        for (line, step) in [
            (r#"{"say": "a"}"#, Step::Say("a".into())),
            (r#"{"edit": 2, "say": "a"}"#, Step::Edit(2, "a".into())),
            (r#"{"regenerate": true}"#, Step::Regenerate),
            (r#"{"branch": 1}"#, Step::Branch(1)),
        ] {
            assert_eq!(parse(line).expect(line), step);
        }
        for wrong in
            ["", "{}", r#"{"edit": 1}"#, r#"{"regenerate": false}"#, r#"{"branch": -1}"#, r#"{"tell": "a"}"#, "[1]"]
        {
            assert_eq!(parse(wrong).expect_err(wrong).kind(), foreword::Kind::InvalidRequest, "{wrong}");
        }
    }

    #[test]
    fn steps_change_the_messages() {
        let say = |text: &str| Step::Say(text.into());
        let mut messages = Vec::new();
        let contents = |messages: &[Message]| -> Vec<String> {
            messages.iter().map(|m| m.content.text().expect("a text")).collect()
        };
        for wrong in [Step::Regenerate, Step::Edit(1, "x".into()), Step::Branch(0), Step::Branch(1)] {
            wrong.apply(&mut messages).expect_err("there is no turn");
        }
        for (step, expected) in [
            (say("a"), "a"),
            (say("b"), "a - b"),
            (Step::Regenerate, "a - b"),
            (Step::Edit(2, "c".into()), "a - c"),
            (say("d"), "a - c - d"),
            (Step::Edit(1, "e".into()), "e"),
        ] {
            assert!(step.apply(&mut messages).expect("a step"));
            assert_eq!(contents(&messages).join(" "), expected);
            messages.push(Message::new("assistant", "-"));
        }
        say("f").apply(&mut messages).expect("a step");
        messages.push(Message::new("assistant", "-"));
        assert!(!Step::Branch(1).apply(&mut messages).expect("a step"), "nothing to answer");
        assert_eq!(contents(&messages).join(" "), "e -");
    }
}
