//! Logits to tokens.

mod budget;
mod constraint;
mod contrast;
mod distribution;
mod dry;
mod mirostat;
mod penalties;
mod rule;
mod top;

pub use budget::Budget;
pub use constraint::{Compiler, Constraint};
pub use contrast::{Contrast, ContrastMode};
pub use distribution::{Candidate, Distribution};
pub use rule::{Effect, LogitsMut, Rule};
pub use top::{Logits, Top, Wish};

use crate::error::{Error, Result};
use distribution::by_logit;
use mirostat::Mirostat;
use rand_core::{RngCore, SeedableRng};
use rand_pcg::Pcg64Mcg;

/// How tokens are chosen. What is said applies in the order of the fields: logits change, then tokens are cut off, then the
/// temperature applies (llama.cpp's order).
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
    /// What DRY takes from the logit of a token that would lengthen a repetition of `dry_allowed_length` tokens; 0 for nothing.
    /// At the beginning of the answer the prompt is the text that is repeated.
    pub dry_multiplier: f32,
    /// How many times as much it takes for each token that the repetition is longer.
    pub dry_base: f32,
    /// Length of a repetition, in tokens, from which on DRY acts.
    pub dry_allowed_length: usize,
    /// How many tokens DRY looks back.
    pub dry_range: usize,
    /// Tokens that end a repetition, such as line ends.
    pub dry_breakers: Vec<u32>,
    /// Keep tokens whose logits are at most so many standard deviations of all logits below the largest one (arXiv 2411.07641);
    /// 0 for all.
    pub top_n_sigma: f32,
    /// Keep the `top_k` most probable tokens; 0 for all.
    pub top_k: usize,
    /// Keep the tokens closest to the expected information that make up this mass (arXiv 2202.00666); 1 for all.
    pub typical_p: f32,
    /// Keep the most probable tokens that make up this mass (arXiv 1904.09751); 1 for all.
    pub top_p: f32,
    /// Keep tokens at least this probable relative to the most probable one (arXiv 2407.01082); 0 for all.
    pub min_p: f32,
    /// How often the tokens at least as probable as `xtc_threshold` are left out, but for the least probable of them (XTC,
    /// text-generation-webui pull request 6335): a probability. The distribution is the mixture of both, so guesses stay exact.
    pub xtc_probability: f32,
    /// See `xtc_probability`.
    pub xtc_threshold: f32,
    /// Divides the logits; 0 always takes the most probable token (the lowest id of equals).
    pub temperature: f32,
    /// With it the temperature is from so much below to so much above `temperature`, as the entropy of what was not cut off is from
    /// 0 to the largest possible one.
    pub dynatemp_range: f32,
    /// Power of that share of the entropy.
    pub dynatemp_exponent: f32,
    /// Cut off by Mirostat 2 (arXiv 2007.14966), behind the temperature, and by nothing else.
    pub mirostat: bool,
    /// The surprise, in bits, that Mirostat keeps to.
    pub mirostat_tau: f32,
    /// How fast it does.
    pub mirostat_eta: f32,
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
            dry_multiplier: 0.0,
            dry_base: 1.75,
            dry_allowed_length: 2,
            dry_range: usize::MAX,
            dry_breakers: Vec::new(),
            top_n_sigma: 0.0,
            top_k: 0,
            typical_p: 1.0,
            top_p: 1.0,
            min_p: 0.0,
            xtc_probability: 0.0,
            xtc_threshold: 0.1,
            temperature: 1.0,
            dynatemp_range: 0.0,
            dynatemp_exponent: 1.0,
            mirostat: false,
            mirostat_tau: 5.0,
            mirostat_eta: 0.1,
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
            ("dry_multiplier", self.dry_multiplier, 0.0, 100.0),
            ("dry_base", self.dry_base, 1.0, 8.0),
            ("top_n_sigma", self.top_n_sigma, 0.0, 100.0),
            ("xtc_probability", self.xtc_probability, 0.0, 1.0),
            ("xtc_threshold", self.xtc_threshold, 0.0, 1.0),
            ("dynatemp_range", self.dynatemp_range, 0.0, 100.0),
            ("dynatemp_exponent", self.dynatemp_exponent, 0.0, 100.0),
            ("mirostat_tau", self.mirostat_tau, 0.0, 100.0),
            ("mirostat_eta", self.mirostat_eta, 0.0, 1.0),
        ];
        if let Some((name, value, low, high)) = ranges.into_iter().find(|(_, v, low, high)| !(*low..=*high).contains(v))
        {
            let message = format!("{name} is {value}; it must be from {low} to {high}");
            return Err(Error::invalid_request(message).in_field(name));
        }
        match self.logit_bias.iter().find(|(id, bias)| *id as usize >= n_vocab || bias.is_nan()) {
            Some((id, bias)) => Err(Error::invalid_request(format!(
                "logit_bias of {bias} for token {id}; the vocabulary has {n_vocab} tokens"
            ))
            .in_field("logit_bias")),
            None => Ok(()),
        }
    }
}

/// Chooses tokens for one answer.
pub struct Sampler {
    params: Params,
    rules: Vec<Box<dyn Rule>>,
    distribution: Distribution,
    mirostat: Option<Mirostat>,
    rng: Pcg64Mcg,
}

impl Sampler {
    /// A sampler that starts from `params.seed`.
    pub fn new(params: Params) -> Self {
        Sampler::with_rules(params, Vec::new())
    }

    /// The same with rules that apply after those of `params`, in this order, and before any token is cut off.
    pub fn with_rules(params: Params, own: Vec<Box<dyn Rule>>) -> Self {
        let rng = Pcg64Mcg::seed_from_u64(params.seed);
        let mut rules = penalties::rules(&params);
        rules.extend(own);
        let mirostat = Mirostat::of(&params);
        Sampler { params, rules, distribution: Distribution::default(), mirostat, rng }
    }

    /// Tells the rules of the prompt.
    pub fn read(&mut self, prompt: &[u32]) {
        self.rules.iter_mut().for_each(|rule| rule.read(prompt));
    }

    /// Tokens that a rule forces; see [`Rule::forced`].
    pub fn forced(&self) -> Vec<u32> {
        self.rules.iter().map(|rule| rule.forced()).find(|tokens| !tokens.is_empty()).unwrap_or_default()
    }

    /// Tells the rules that the answer goes in circles; whether one brings it to an end. See [`Rule::conclude`].
    pub fn conclude(&mut self) -> bool {
        let by_rule: Vec<bool> = self.rules.iter_mut().map(|rule| rule.conclude()).collect();
        by_rule.contains(&true)
    }

    /// Why nothing may come next; see [`Rule::failure`].
    pub fn failure(&self) -> Option<Error> {
        self.rules.iter().find_map(|rule| rule.failure())
    }

    /// Tells the rules of a token of the answer.
    pub fn accept(&mut self, token: u32) {
        self.rules.iter_mut().for_each(|rule| rule.accept(token));
        if let Some(mirostat) = &mut self.mirostat {
            mirostat.accept(&mut self.distribution, token);
        }
    }

    /// The distribution that the next token is drawn from.
    pub fn distribution(&mut self, logits: Logits<'_>) -> &Distribution {
        self.fill(logits);
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
        let temperature = if self.params.temperature == 0.0 { 1.0 } else { self.params.temperature };
        let top_k = if self.params.top_k == 0 { n } else { self.params.top_k.min(n) };
        let mut distribution = Distribution::default();
        let params = Params { temperature, top_k, ..self.params.clone() };
        distribution.fill(Logits::All(logits), &params, &self.rules, ahead);
        if let Some(mirostat) = &self.mirostat {
            mirostat.cut(&mut distribution);
        }
        distribution
    }

    fn fill(&mut self, logits: Logits<'_>) {
        self.distribution.fill(logits, &self.params, &self.rules, &[]);
        if let Some(mirostat) = &self.mirostat {
            mirostat.cut(&mut self.distribution);
        }
    }

    /// Draws the next token.
    pub fn sample(&mut self, logits: Logits<'_>) -> u32 {
        self.fill(logits);
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
        Logits::All(logits) | Logits::Pair { own: logits, .. } => {
            let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            // Rounded as [`Top::sum`] is: what is read of the logits must not show.
            (largest, logits.iter().map(|&l| f64::from(l - largest).exp()).sum::<f64>() as f32)
        }
        Logits::Top(top) => (top.logits.first().copied().unwrap_or_default(), top.sum),
    };
    let log = |logit: f32| (f64::from(logit - largest) - f64::from(sum).ln()) as f32;
    let (own, mut top) = match logits {
        Logits::All(logits) | Logits::Pair { own: logits, .. } => {
            (logits.get(token as usize).copied(), most_probable(logits, n))
        }
        Logits::Top(top) => {
            let pairs = || top.tokens.iter().zip(top.logits).map(|(&id, &logit)| (id as u32, logit));
            (pairs().find(|p| p.0 == token).map(|p| p.1), pairs().take(n).collect())
        }
    };
    top.iter_mut().for_each(|(_, logit)| *logit = log(*logit));
    (own.map_or(f32::NEG_INFINITY, log), top)
}

/// The `n` largest logits with their tokens, all of them where there are fewer.
fn most_probable(logits: &[f32], n: usize) -> Vec<(u32, f32)> {
    let mut all: Vec<Candidate> = logits.iter().zip(0..).map(|(&logit, id)| Candidate { id, logit, p: 0.0 }).collect();
    if n < all.len() {
        all.select_nth_unstable_by(n, by_logit);
        all.truncate(n);
    }
    all.sort_unstable_by(by_logit);
    all.into_iter().map(|c| (c.id, c.logit)).collect()
}
