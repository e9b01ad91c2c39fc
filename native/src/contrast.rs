//! What an answer is to differ from, from the command line.

use crate::form::read;
use clap::Args;
use foreword::Result;
use foreword::engine::Against;
use foreword::sample::{Contrast, ContrastMode};
use std::path::PathBuf;

/// What an answer is to differ from.
#[derive(Clone, Debug, Args)]
pub(crate) struct ContrastArgs {
    /// Take off what the prompt in this file makes probable (a negative prompt); its answers are written beside, at the same time
    #[arg(long, value_name = "FILE")]
    contrast: Option<PathBuf>,
    /// prob for p - W * p_other, or logit for classifier-free guidance of strength 1 + W
    #[arg(long, value_name = "MODE", default_value = "prob", value_parser = mode, requires = "contrast")]
    contrast_mode: ContrastMode,
    /// How much is taken off: by default 0.7, or 0.5 of logits
    #[arg(long, value_name = "W", allow_negative_numbers = true, requires = "contrast")]
    contrast_weight: Option<f32>,
    /// Only where the squares of all probabilities sum up to less: by default 0.8, or 1 (always) for logits
    #[arg(long, value_name = "SUM", allow_negative_numbers = true, requires = "contrast")]
    contrast_when: Option<f32>,
}

pub(crate) fn mode(text: &str) -> Result<ContrastMode, String> {
    match text {
        "prob" => Ok(ContrastMode::Prob),
        "logit" => Ok(ContrastMode::Logit),
        _ => Err("must be prob or logit".into()),
    }
}

impl ContrastArgs {
    /// The other prompt, of which `tokens` makes tokens, and how it is taken off.
    pub(crate) fn against(&self, tokens: impl FnOnce(&str) -> Result<Vec<u32>>) -> Result<Option<Against>> {
        let Some(path) = &self.contrast else { return Ok(None) };
        let mut contrast = Contrast::of(self.contrast_mode);
        contrast.weight = self.contrast_weight.unwrap_or(contrast.weight);
        contrast.when = self.contrast_when.unwrap_or(contrast.when);
        Ok(Some(Against { prompt: tokens(&read(path)?)?, contrast }))
    }
}
