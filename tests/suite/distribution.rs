//! Sampling against exact probabilities.

use crate::common::random::Random;
use crate::common::rules::{ByPath, Forcing, Next};
use foreword::sample::{Logits, Params, Rule, Sampler, Top, log_probabilities};

const LOGITS: [f32; 6] = [1.0, 3.0, 0.5, 2.0, -1.0, 2.5];

/// Probabilities by token id.
fn probabilities(params: Params, history: &[u32]) -> Vec<f64> {
    let mut sampler = Sampler::new(params);
    history.iter().for_each(|&t| sampler.accept(t));
    let d = sampler.distribution(Logits::All(&LOGITS));
    let p: Vec<f64> = (0..LOGITS.len() as u32).map(|id| d.p(id)).collect();
    assert!((p.iter().sum::<f64>() - 1.0).abs() < 1e-12);
    p
}

fn softmax(logits: &[f64]) -> Vec<f64> {
    let sum: f64 = logits.iter().map(|l| l.exp()).sum();
    logits.iter().map(|l| l.exp() / sum).collect()
}

/// The softmax over some tokens only.
fn kept(ids: &[usize], temperature: f64) -> Vec<f64> {
    let logit = |(i, &l): (usize, &f32)| if ids.contains(&i) { f64::from(l) / temperature } else { f64::NEG_INFINITY };
    softmax(&LOGITS.iter().enumerate().map(logit).collect::<Vec<_>>())
}

fn assert_close(got: &[f64], want: &[f64]) {
    assert!(got.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-6), "{got:?} instead of {want:?}");
}

#[test]
fn truncations_keep_what_they_promise() {
    let p = Params::default();
    assert_close(&probabilities(p.clone(), &[]), &kept(&[0, 1, 2, 3, 4, 5], 1.0));
    assert_close(&probabilities(Params { temperature: 0.5, ..p.clone() }, &[]), &kept(&[0, 1, 2, 3, 4, 5], 0.5));
    assert_close(&probabilities(Params { top_k: 3, ..p.clone() }, &[]), &kept(&[1, 5, 3], 1.0));
    // 0.446, 0.271, 0.164, 0.060, 0.037, 0.008 …: two make up 0.7.
    assert_close(&probabilities(Params { top_p: 0.7, ..p.clone() }, &[]), &kept(&[1, 5], 1.0));
    assert_close(&probabilities(Params { top_p: 0.0, ..p.clone() }, &[]), &kept(&[1], 1.0));
    // e^-1 = 0.37 keeps logits down to 2.0.
    assert_close(&probabilities(Params { min_p: 0.36, ..p.clone() }, &[]), &kept(&[1, 3, 5], 1.0));
    assert_close(&probabilities(Params { temperature: 0.0, ..p.clone() }, &[]), &kept(&[1], 1.0));
    // Entropy 1.40: the token with probability 0.271 (information 1.30) is the most typical one, 0.164 (1.81) comes next.
    assert_close(&probabilities(Params { typical_p: 0.2, ..p.clone() }, &[]), &kept(&[5], 1.0));
    assert_close(&probabilities(Params { typical_p: 0.4, ..p }, &[]), &kept(&[5, 3], 1.0));
}

#[test]
fn penalties_and_bias_move_logits() {
    let p = Params { repetition_penalty: 2.0, presence_penalty: 0.5, frequency_penalty: 0.25, ..Params::default() };
    // Token 1 twice, token 4 once; positive logits are divided, negative ones multiplied.
    let want = softmax(&[1.0, 1.5 - 0.5 - 0.5, 0.5, 2.0, -2.0 - 0.5 - 0.25, 2.5]);
    assert_close(&probabilities(p.clone(), &[1, 4, 1]), &want);
    // Only the last tokens count.
    let want = softmax(&[1.0, 1.5 - 0.5 - 0.25, 0.5, 2.0, -1.0, 2.5]);
    assert_close(&probabilities(Params { penalty_window: 1, ..p }, &[1, 4, 1]), &want);
    let bias = Params { logit_bias: vec![(0, 2.0), (1, f32::NEG_INFINITY)], ..Params::default() };
    let want = softmax(&[3.0, f64::NEG_INFINITY, 0.5, 2.0, -1.0, 2.5]);
    assert_close(&probabilities(bias, &[]), &want);
}

#[test]
fn draws_follow_the_distribution() {
    // Chi-squares of independent seeds add up to one with as many times the 4 degrees of freedom.
    let (seeds, n) = (25, 20_000);
    let mut chi2 = 0.0;
    for seed in 0..seeds {
        let mut sampler = Sampler::new(Params { temperature: 0.8, top_k: 5, seed, ..Params::default() });
        let want: Vec<f64> = (0..6).map(|id| sampler.distribution(Logits::All(&LOGITS)).p(id)).collect();
        let mut counts = [0.0; 6];
        for _ in 0..n {
            counts[sampler.sample(Logits::All(&LOGITS)) as usize] += 1.0;
        }
        assert_eq!(counts[4], 0.0);
        let square = |(c, p): (&f64, &f64)| (c - p * f64::from(n)).powi(2) / (p * f64::from(n));
        chi2 += counts.iter().zip(&want).filter(|(_, p)| **p > 0.0).map(square).sum::<f64>();
    }
    // 0.1 % and 99.9 % of the chi-square distribution with 100 degrees of freedom.
    assert!((61.9..149.4).contains(&chi2), "chi-square {chi2}");
}

#[test]
fn large_vocabularies_truncate_like_small_ones() {
    let logits: Vec<f32> = (0..50_000).map(|i| ((i * 7919) % 50_000) as f32 / 5_000.0).collect();
    let mut sampler = Sampler::new(Params { top_p: 0.9, ..Params::default() });
    let mut p: Vec<f64> = softmax(&logits.iter().map(|&l| f64::from(l)).collect::<Vec<_>>());
    p.sort_by(|a, b| b.total_cmp(a));
    let mut sum = 0.0;
    let n = p
        .iter()
        .position(|p| {
            sum += p;
            sum >= 0.9
        })
        .expect("a nucleus")
        + 1;
    let d = sampler.distribution(Logits::All(&logits));
    // Rounding may decide about the last one.
    assert!(d.candidates().len().abs_diff(n) <= 1, "{} instead of {n}", d.candidates().len());
}

#[test]
fn log_probabilities_are_sorted_and_natural() {
    let (own, top) = log_probabilities(Logits::All(&LOGITS), 4, 3);
    let want = kept(&[0, 1, 2, 3, 4, 5], 1.0);
    assert!((f64::from(own) - want[4].ln()).abs() < 1e-6);
    assert_eq!(top.iter().map(|t| t.0).collect::<Vec<_>>(), [1, 5, 3]);
    assert!(top.iter().all(|&(id, l)| (f64::from(l) - want[id as usize].ln()).abs() < 1e-6));
}

/// The `k` largest logits, their tokens, and the sum over all.
fn largest(logits: &[f32], k: usize) -> (Vec<f32>, Vec<f32>, f32) {
    let mut ids: Vec<usize> = (0..logits.len()).collect();
    ids.sort_by(|&a, &b| logits[b].partial_cmp(&logits[a]).expect("a number"));
    let sum: f64 = logits.iter().map(|l| f64::from(l - logits[ids[0]]).exp()).sum();
    (ids[..k].iter().map(|&i| logits[i]).collect(), ids[..k].iter().map(|&i| i as f32).collect(), sum as f32)
}

/// Random settings: the ones that the largest logits can decide, and others.
fn settings(r: &mut Random) -> Params {
    let mut one_of = |values: &[f32]| values[r.below(values.len())];
    Params {
        temperature: one_of(&[0.0, 0.7, 1.0, 1.5]),
        top_k: one_of(&[0.0, 1.0, 5.0, 40.0]) as usize,
        top_p: one_of(&[1.0, 0.0, 0.5, 0.9, 0.95]),
        min_p: one_of(&[0.0, 0.0, 0.05, 0.3]),
        typical_p: one_of(&[1.0, 1.0, 1.0, 0.8]),
        repetition_penalty: one_of(&[1.0, 1.0, 1.3, 0.8]),
        presence_penalty: one_of(&[0.0, 0.0, 0.6, -0.5]),
        frequency_penalty: one_of(&[0.0, 0.0, 0.4]),
        penalty_window: 16,
        logit_bias: match one_of(&[0.0, 0.0, 1.0, 2.0]) as usize {
            0 => Vec::new(),
            1 => vec![(3, -2.0), (7, f32::NEG_INFINITY)],
            _ => vec![(3, 4.0)],
        },
        dry_multiplier: one_of(&[0.0, 0.0, 0.8]),
        dry_allowed_length: one_of(&[1.0, 2.0]) as usize,
        dry_breakers: vec![5],
        top_n_sigma: one_of(&[0.0, 0.0, 0.0, 0.0, 1.0]),
        xtc_probability: one_of(&[0.0, 0.0, 0.5, 1.0]),
        dynatemp_range: one_of(&[0.0, 0.0, 0.5]),
        mirostat: one_of(&[0.0, 0.0, 0.0, 0.0, 1.0]) > 0.0,
        seed: 9,
        ..Params::default()
    }
}

/// Rules of the caller's own: mostly none; others that lower one token, forbid many, or raise one.
fn own_rules(r: &mut Random) -> Vec<Box<dyn Rule>> {
    match r.below(8) {
        0 => vec![Box::new(Next::new(-3.0))],
        1 => vec![Box::new(ByPath::default())],
        2 => vec![Box::new(ByPath::default()), Box::new(Next::new(-1.0))],
        3 => vec![Box::new(Next::new(2.0))],
        4 => vec![Box::new(Forcing::new(false))],
        _ => Vec::new(),
    }
}

#[test]
fn the_largest_logits_choose_what_all_would() {
    let mut r = Random::new(3);
    let (mut decided, mut asked) = (0, 0);
    for round in 0..12_000 {
        let n_vocab = 600;
        // Steep and flat distributions, some with many equal logits.
        let spread = [30.0, 8.0, 2.0][round % 3];
        let mut logits: Vec<f32> = r.floats(n_vocab).iter().map(|v| v * spread).collect();
        if round % 4 == 0 {
            logits.iter_mut().for_each(|l| *l = l.round());
        }
        let params = settings(&mut r);
        let recent: Vec<u32> = (0..20).map(|_| r.below(n_vocab.min(40)) as u32).collect();
        let rules = own_rules(&mut r);
        let mut samplers = [0, 1].map(|_| Sampler::with_rules(params.clone(), rules.clone()));
        samplers.iter_mut().for_each(|s| recent.iter().for_each(|&t| s.accept(t)));
        let [all, few] = &mut samplers;
        let Some(wish) = few.wish(0, 64) else { continue };
        asked += 1;
        let (largest, tokens, sum) = largest(&logits, wish.n);
        let top = Top { logits: &largest, tokens: &tokens, sum: if wish.sum { sum } else { f32::NAN } };
        let suffices = few.suffices(top);
        assert!(suffices || !wish.sure, "{params:?}, {rules:?}");
        if suffices {
            decided += 1;
            let want = all.distribution(Logits::All(&logits)).candidates().to_vec();
            assert_eq!(few.distribution(Logits::Top(top)).candidates(), want, "{params:?}, {rules:?}");
            assert_eq!(few.sample(Logits::Top(top)), all.sample(Logits::All(&logits)));
        }
    }
    assert!(asked > 1300 && decided > 1300 && decided < asked, "{asked} asked for the largest, {decided} decided");
}

#[test]
fn what_lies_ahead_counts_as_if_it_were_accepted() {
    let mut r = Random::new(8);
    let n_vocab = 60;
    for _ in 0..500 {
        let (mut params, rules) = (settings(&mut r), own_rules(&mut r));
        // A draft has use for more than one token.
        params.temperature = params.temperature.max(0.5);
        let logits: Vec<f32> = r.floats(n_vocab).iter().map(|v| v * 8.0).collect();
        let text: Vec<u32> = (0..r.below(30)).map(|_| r.below(n_vocab) as u32).collect();
        let cut = r.below(text.len() + 1);
        let mut samplers = [0, 1].map(|_| Sampler::with_rules(params.clone(), rules.clone()));
        let [before, behind] = &mut samplers;
        text[..cut].iter().for_each(|&token| before.accept(token));
        text.iter().for_each(|&token| behind.accept(token));
        let got = before.draft_distribution(&logits, &text[cut..], n_vocab);
        let want = behind.distribution(Logits::All(&logits));
        assert_eq!(got.candidates(), want.candidates(), "{params:?}, {rules:?}, {text:?} cut at {cut}");
    }
}

#[test]
fn log_probabilities_come_from_the_largest_too() {
    let (logits, tokens, sum) = largest(&LOGITS, 4);
    let top = Top { logits: &logits, tokens: &tokens, sum };
    let (own, some) = log_probabilities(Logits::Top(top), 3, 3);
    let (want_own, want_some) = log_probabilities(Logits::All(&LOGITS), 3, 3);
    assert!((own - want_own).abs() < 1e-6);
    assert_eq!(some.len(), 3);
    assert!(some.iter().zip(&want_some).all(|(a, b)| a.0 == b.0 && (a.1 - b.1).abs() < 1e-6));
}
