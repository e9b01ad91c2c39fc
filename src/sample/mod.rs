//! Logits to tokens.

mod distribution;
mod penalties;
mod top;

pub use distribution::{Candidate, Distribution};
pub use top::{Logits, Top, Wish};

use crate::error::{Error, Result};
use penalties::History;
use rand_core::{RngCore, SeedableRng};
use rand_pcg::Pcg64Mcg;

/// How tokens are chosen. Truncations apply in the order of the fields, before the temperature (llama.cpp's order).
#[derive(Clone, Debug, PartialEq)]
pub struct Params {
    /// Added to the logits of these tokens; negative infinity forbids one.
    pub logit_bias: Vec<(u32, f32)>,
    /// Logits of recent tokens are divided by it when positive, multiplied when negative; 1 for none (arXiv 1909.05858).
    pub repetition_penalty: f32,
    /// Subtracted from the logits of recent tokens.
    pub presence_penalty: f32,
    /// Subtracted from the logits of recent tokens for each time they occurred.
    pub frequency_penalty: f32,
    /// How many tokens are recent.
    pub penalty_window: usize,
    /// Keep the `top_k` most probable tokens; 0 for all.
    pub top_k: usize,
    /// Keep the tokens closest to the expected information that make up this mass (arXiv 2202.00666); 1 for all.
    pub typical_p: f32,
    /// Keep the most probable tokens that make up this mass (arXiv 1904.09751); 1 for all.
    pub top_p: f32,
    /// Keep tokens at least this probable relative to the most probable one (arXiv 2407.01082); 0 for all.
    pub min_p: f32,
    /// Divides the logits; 0 always takes the most probable token (the lowest id of equals).
    pub temperature: f32,
    /// Makes the choices repeatable.
    pub seed: u64,
}

impl Default for Params {
    /// The model's own distribution.
    fn default() -> Self {
        Params {
            logit_bias: Vec::new(),
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            penalty_window: 64,
            top_k: 0,
            typical_p: 1.0,
            top_p: 1.0,
            min_p: 0.0,
            temperature: 1.0,
            seed: 0,
        }
    }
}

impl Params {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`crate::Kind::InvalidRequest`] that says which value is out of which range.
    pub fn check(&self, n_vocab: usize) -> Result<()> {
        let ranges = [
            ("temperature", self.temperature, 0.0, 100.0),
            ("top_p", self.top_p, 0.0, 1.0),
            ("min_p", self.min_p, 0.0, 1.0),
            ("typical_p", self.typical_p, 0.0, 1.0),
            ("repetition_penalty", self.repetition_penalty, 0.01, 100.0),
            ("presence_penalty", self.presence_penalty, -100.0, 100.0),
            ("frequency_penalty", self.frequency_penalty, -100.0, 100.0),
        ];
        if let Some((name, value, low, high)) = ranges.into_iter().find(|(_, v, low, high)| !(*low..=*high).contains(v))
        {
            return Err(Error::invalid_request(format!("{name} is {value}; it must be from {low} to {high}")));
        }
        match self.logit_bias.iter().find(|(id, bias)| *id as usize >= n_vocab || bias.is_nan()) {
            Some((id, bias)) => Err(Error::invalid_request(format!(
                "logit_bias of {bias} for token {id}; the vocabulary has {n_vocab} tokens"
            ))),
            None => Ok(()),
        }
    }
}

/// Chooses tokens for one answer.
pub struct Sampler {
    params: Params,
    history: History,
    distribution: Distribution,
    rng: Pcg64Mcg,
}

impl Sampler {
    /// A sampler that starts from `params.seed`.
    pub fn new(params: Params) -> Self {
        let rng = Pcg64Mcg::seed_from_u64(params.seed);
        let history = History::new(params.penalty_window);
        Sampler { params, history, distribution: Distribution::default(), rng }
    }

    /// Tells the sampler of a token of the prompt or the answer; penalties depend on it.
    pub fn accept(&mut self, token: u32) {
        self.history.push(token);
    }

    /// The distribution that the next token is drawn from.
    pub fn distribution(&mut self, logits: Logits<'_>) -> &Distribution {
        self.distribution.fill(logits, &self.params, &self.history);
        &self.distribution
    }

    /// The settings.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// A uniform number in 0..1 of the answer's own sequence.
    pub fn unit(&mut self) -> f64 {
        unit(&mut self.rng)
    }

    /// The distribution that a drafter's logits behind the tokens `ahead` stand for under these settings, cut to the `n`
    /// most probable tokens. Temperature 0 counts as 1: a draft has use for more than one guess.
    pub fn draft_distribution(&self, logits: &[f32], ahead: &[u32], n: usize) -> Distribution {
        let mut history = self.history.clone();
        ahead.iter().for_each(|&token| history.push(token));
        let temperature = if self.params.temperature == 0.0 { 1.0 } else { self.params.temperature };
        let top_k = if self.params.top_k == 0 { n } else { self.params.top_k.min(n) };
        let mut distribution = Distribution::default();
        distribution.fill(Logits::All(logits), &Params { temperature, top_k, ..self.params.clone() }, &history);
        distribution
    }

    /// Draws the next token.
    pub fn sample(&mut self, logits: Logits<'_>) -> u32 {
        self.distribution.fill(logits, &self.params, &self.history);
        let u = unit(&mut self.rng);
        self.distribution.pick(u)
    }
}

/// Uniform in 0..1 with 53 bits.
fn unit(rng: &mut Pcg64Mcg) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// Natural log-probabilities of the model's own distribution: of `token`, and of the `n` most probable tokens.
pub fn log_probabilities(logits: Logits<'_>, token: u32, n: usize) -> (f32, Vec<(u32, f32)>) {
    let (largest, sum) = match logits {
        Logits::All(logits) => {
            let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            // Rounded as [`Top::sum`] is: what is read of the logits must not show.
            (largest, logits.iter().map(|&l| f64::from(l - largest).exp()).sum::<f64>() as f32)
        }
        Logits::Top(top) => (top.logits.first().copied().unwrap_or_default(), top.sum),
    };
    let log = |logit: f32| (f64::from(logit - largest) - f64::from(sum).ln()) as f32;
    let (own, mut top) = match logits {
        Logits::All(logits) => (logits.get(token as usize).copied(), most_probable(logits, n)),
        Logits::Top(top) => {
            let pairs = || top.tokens.iter().zip(top.logits).map(|(&id, &logit)| (id as u32, logit));
            (pairs().find(|p| p.0 == token).map(|p| p.1), pairs().take(n).collect())
        }
    };
    top.iter_mut().for_each(|(_, logit)| *logit = log(*logit));
    (own.map_or(f32::NEG_INFINITY, log), top)
}

/// The `n` largest logits with their tokens.
fn most_probable(logits: &[f32], n: usize) -> Vec<(u32, f32)> {
    let mut top: Vec<(u32, f32)> = Vec::with_capacity(n + 1);
    for (id, &logit) in logits.iter().enumerate() {
        if top.len() < n || top.last().is_some_and(|&(_, least)| logit > least) {
            let at = top.partition_point(|&(_, l)| l >= logit);
            top.insert(at, (id as u32, logit));
            top.truncate(n);
        }
    }
    top
}
