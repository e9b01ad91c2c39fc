//! The field `contrast`: what an answer is to differ from.

use super::body::Prompt;
use super::fields::{list, number, object, text, token, wrong};
use super::message;
use crate::chat::Message;
use crate::error::Result;
use crate::sample::{Contrast, ContrastMode};
use serde_json::Value;

/// The field, as it was given.
#[derive(Clone, Debug)]
pub struct Contrasted {
    /// The other conversation, or the other text to go on with.
    pub(super) from: OtherPrompt,
    pub(super) contrast: Contrast,
}

#[derive(Clone, Debug)]
pub(super) enum OtherPrompt {
    Messages(Vec<Message>),
    Prompt(Prompt),
}

const AT: &str = "contrast";

pub(super) fn contrasted(value: &Value) -> Result<Contrasted> {
    let mode = match value["mode"].as_str() {
        None if value["mode"].is_null() => ContrastMode::Prob,
        Some("prob") => ContrastMode::Prob,
        Some("logit") => ContrastMode::Logit,
        _ => return Err(wrong("contrast.mode", "must be \"prob\" or \"logit\"")),
    };
    let (mut from, mut contrast) = (None, Contrast::of(mode));
    for (name, value) in object(value, AT)?.iter().filter(|(_, value)| !value.is_null()) {
        let at = format!("{AT}.{name}");
        let given = match name.as_str() {
            "messages" => Some(OtherPrompt::Messages(message::messages(value, &at)?)),
            "prompt" => Some(OtherPrompt::Prompt(one_prompt(value, &at)?)),
            "weight" => {
                contrast.weight = number(value, &at)?;
                None
            }
            "when" => {
                contrast.when = number(value, &at)?;
                None
            }
            "mode" => None,
            _ => return Err(wrong(at, "there is no such field; is it misspelt?")),
        };
        if given.is_some() && from.is_some() {
            return Err(wrong(AT, "has messages or a prompt, not both"));
        }
        from = from.or(given);
    }
    contrast.check()?;
    Ok(Contrasted {
        from: from.ok_or_else(|| wrong(AT, "needs messages, or a prompt where a text is completed"))?,
        contrast,
    })
}

fn one_prompt(value: &Value, at: &str) -> Result<Prompt> {
    match value {
        Value::Array(_) => {
            let tokens = list(value, at)?.map(|(one, at)| token(one, &at)).collect::<Result<_>>()?;
            Ok(Prompt::Tokens(tokens))
        }
        _ => Ok(Prompt::Text(text(value, at)?.to_owned())),
    }
}
