//! DRY, XTC, top-n-sigma, dynamic temperature and Mirostat against what their definitions say, computed plainly in f64.

use crate::common::random::Random;
use foreword::sample::{Budget, Logits, Params, Sampler};

/// Probabilities by token; `answered` says that the text was drawn, not given.
fn got(params: &Params, text: &[u32], logits: &[f32]) -> Vec<f64> {
    let mut sampler = Sampler::new(params.clone());
    text.iter().for_each(|&token| sampler.accept(token));
    let distribution = sampler.distribution(Logits::All(logits));
    (0..logits.len() as u32).map(|id| distribution.p(id)).collect()
}

fn softmax(logits: &[f64], temperature: f64) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = logits.iter().map(|l| ((l - largest) / temperature).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.iter().map(|p| p / sum).collect()
}

fn close(got: &[f64], want: &[f64], what: &dyn std::fmt::Debug) {
    for (i, (a, b)) in got.iter().zip(want).enumerate() {
        assert!((a - b).abs() < 1e-5, "token {i}: {a} instead of {b}: {what:?}");
    }
}

fn wide(logits: &[f32]) -> Vec<f64> {
    logits.iter().map(|&l| f64::from(l)).collect()
}

/// What is kept of `logits`, the rest at minus infinity.
fn keep(logits: &[f64], kept: impl Fn(usize) -> bool) -> Vec<f64> {
    logits.iter().enumerate().map(|(i, &l)| if kept(i) { l } else { f64::NEG_INFINITY }).collect()
}

#[test]
fn dry_takes_what_its_definition_says() {
    let mut r = Random::new(1);
    for round in 0..400 {
        let text: Vec<u32> = (0..r.below(60)).map(|_| r.below(4) as u32).collect();
        let logits: Vec<f32> = r.floats(6).iter().map(|v| v * 4.0).collect();
        let breakers = if round % 2 == 0 { vec![] } else { vec![3] };
        let allowed = 1 + r.below(4);
        let range = [1000, 20, 5, 0][round % 4];
        let params = Params {
            dry_multiplier: 0.8,
            dry_base: 1.75,
            dry_allowed_length: allowed,
            dry_range: range,
            dry_breakers: breakers.clone(),
            ..Params::default()
        };
        // For each place where the last token was before: how far what is before it and what is before the end are alike.
        let seen = &text[text.len().saturating_sub(range)..];
        let mut want = wide(&logits);
        let mut longest = [0usize; 6];
        if let Some((last, before)) = seen.split_last().filter(|(last, _)| !breakers.contains(last)) {
            for (i, _) in before.iter().enumerate().filter(|(_, token)| *token == last) {
                let next = seen[i + 1];
                if breakers.contains(&next) {
                    continue;
                }
                let mut length = 1;
                while length < 50 && i >= length {
                    let token = seen[seen.len() - 1 - length];
                    if seen[i - length] != token || breakers.contains(&token) {
                        break;
                    }
                    length += 1;
                }
                longest[next as usize] = longest[next as usize].max(length);
            }
        }
        for (logit, length) in want.iter_mut().zip(longest).filter(|(_, length)| *length >= allowed) {
            *logit -= 0.8 * 1.75f64.powi((length - allowed) as i32);
        }
        close(&got(&params, &text, &logits), &softmax(&want, 1.0), &(&text, &params));
    }
}

#[test]
fn top_n_sigma_keeps_what_lies_near_the_largest() {
    let mut r = Random::new(2);
    for _ in 0..200 {
        let logits: Vec<f32> = r.floats(50).iter().map(|v| v * 6.0).collect();
        let n = 0.1 + r.below(20) as f32 / 10.0;
        let all = wide(&logits);
        let mean = all.iter().sum::<f64>() / 50.0;
        let sigma = (all.iter().map(|l| (l - mean) * (l - mean)).sum::<f64>() / 50.0).sqrt();
        let largest = all.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let want = softmax(&keep(&all, |i| all[i] >= largest - f64::from(n) * sigma), 0.7);
        close(&got(&Params { top_n_sigma: n, temperature: 0.7, ..Params::default() }, &[], &logits), &want, &n);
    }
}

#[test]
fn xtc_leaves_out_all_but_the_last_choice_as_often_as_it_says() {
    let mut r = Random::new(3);
    for _ in 0..200 {
        let logits: Vec<f32> = r.floats(20).iter().map(|v| v * 3.0).collect();
        let (often, threshold) = (r.below(11) as f32 / 10.0, [0.02, 0.1, 0.2, 0.6][r.below(4)]);
        let all = wide(&logits);
        let p = softmax(&all, 1.0);
        let above: Vec<usize> = (0..20).filter(|&i| p[i] >= f64::from(threshold)).collect();
        let last = above.iter().copied().min_by(|&a, &b| p[a].total_cmp(&p[b]));
        let rest = keep(&all, |i| above.len() < 2 || !above.contains(&i) || Some(i) == last);
        let (with, without) = (softmax(&rest, 0.8), softmax(&all, 0.8));
        let mix = |(w, o): (&f64, &f64)| f64::from(often) * w + (1.0 - f64::from(often)) * o;
        let want: Vec<f64> = with.iter().zip(&without).map(mix).collect();
        let params = Params { xtc_probability: often, xtc_threshold: threshold, temperature: 0.8, ..Params::default() };
        close(&got(&params, &[], &logits), &want, &params);
    }
}

#[test]
fn dynamic_temperature_follows_the_entropy_of_what_was_kept() {
    let mut r = Random::new(4);
    for _ in 0..200 {
        let logits: Vec<f32> = r.floats(30).iter().map(|v| v * 5.0).collect();
        let (range, exponent, k) = (r.below(10) as f32 / 8.0, 0.5 + r.below(4) as f32 / 2.0, 2 + r.below(20));
        let all = wide(&logits);
        let mut order: Vec<usize> = (0..30).collect();
        order.sort_by(|&a, &b| all[b].total_cmp(&all[a]));
        let kept = keep(&all, |i| order[..k].contains(&i));
        let entropy: f64 = softmax(&kept, 1.0).iter().filter(|p| **p > 0.0).map(|p| -p * p.ln()).sum();
        let (low, high) = ((0.8 - f64::from(range)).max(0.0), 0.8 + f64::from(range));
        let temperature = low + (high - low) * (entropy / (k as f64).ln()).powf(f64::from(exponent));
        let temperature = if range == 0.0 { 0.8 } else { temperature.max(1e-4) };
        let params = Params {
            dynatemp_range: range,
            dynatemp_exponent: exponent,
            top_k: k,
            temperature: 0.8,
            ..Params::default()
        };
        close(&got(&params, &[], &logits), &softmax(&kept, temperature), &params);
    }
}

#[test]
fn mirostat_learns_from_what_it_chose() {
    let mut r = Random::new(5);
    let params = Params {
        mirostat: true,
        mirostat_tau: 2.0,
        mirostat_eta: 0.3,
        temperature: 0.9,
        top_k: 1,
        seed: 4,
        ..Params::default()
    };
    let mut sampler = Sampler::new(params);
    // What is read is not chosen.
    [1, 2, 3].iter().for_each(|&token| sampler.accept(token));
    let mut most = 4.0;
    let mut cut = 0;
    for _ in 0..300 {
        let logits: Vec<f32> = r.floats(40).iter().map(|v| v * 4.0).collect();
        let p = softmax(&wide(&logits), 0.9);
        let best = p.iter().copied().fold(0.0, f64::max);
        let kept = |i: usize| -p[i].log2() <= most || p[i] == best;
        let sum: f64 = (0..40).filter(|&i| kept(i)).map(|i| p[i]).sum();
        let want: Vec<f64> = (0..40).map(|i| if kept(i) { p[i] / sum } else { 0.0 }).collect();
        cut += usize::from(want.contains(&0.0));
        let distribution = sampler.distribution(Logits::All(&logits));
        let got: Vec<f64> = (0..40).map(|id| distribution.p(id)).collect();
        close(&got, &want, &most);
        let token = sampler.sample(Logits::All(&logits));
        sampler.accept(token);
        most -= 0.3 * (-want[token as usize].log2() - 2.0);
    }
    assert!(cut > 100, "{cut}");
}

#[test]
fn the_order_is_that_of_the_fields() {
    let logits: Vec<f32> = vec![3.0, 2.5, 2.0, 1.0, 0.0, -1.0];
    let params = Params {
        logit_bias: vec![(5, 3.5)],
        top_k: 4,
        min_p: 0.2,
        xtc_probability: 1.0,
        xtc_threshold: 0.2,
        temperature: 0.5,
        ..Params::default()
    };
    // 3.0, 2.5, 2.5, 2.0 are left of top-k, all of min-p; the first three have 0.2 and more, of which the last one stays.
    let want = softmax(&[f64::NEG_INFINITY, f64::NEG_INFINITY, 2.0, f64::NEG_INFINITY, f64::NEG_INFINITY, 2.5], 0.5);
    let all = softmax(&[3.0, 2.5, 2.0, 2.5], 1.0);
    assert!(all[1] >= 0.2 && all[2] < 0.2, "{all:?}");
    close(&got(&params, &[], &logits), &want, &params);
}

#[test]
fn a_budget_cuts_a_thought_with_its_own_tokens_only() {
    // 1 begins a thought, 2 ends it, 3 and 2 cut it; the model would say 5 for ever.
    let marks = || [vec![1], vec![2], vec![3, 2]];
    let logits = [0.0, 1.0, 0.0, 0.0, 0.0, 9.0];
    let answer = |budget: usize, opened: bool, begin: &[u32]| {
        let prompt = [4, 1, 4];
        let rule = Budget::new(budget, marks(), opened);
        let mut sampler = Sampler::with_rules(Params { temperature: 0.0, ..Params::default() }, vec![Box::new(rule)]);
        sampler.read(&prompt);
        begin.iter().for_each(|&token| sampler.accept(token));
        let mut said = begin.to_vec();
        for _ in 0..6 {
            let token = sampler.sample(Logits::All(&logits));
            sampler.accept(token);
            said.push(token);
        }
        said
    };
    assert_eq!(answer(2, true, &[]), [5, 5, 3, 2, 5, 5]);
    assert_eq!(answer(0, true, &[]), [3, 2, 5, 5, 5, 5]);
    assert_eq!(answer(2, false, &[1]), [1, 5, 5, 3, 2, 5, 5]);
    assert_eq!(answer(2, false, &[]), [5; 6], "no thought");
    assert_eq!(answer(3, true, &[5, 2]), [5, 2, 5, 5, 5, 5, 5, 5], "it ended by itself");
    // Guesses that lie ahead count.
    let rule = Budget::new(2, marks(), true);
    let sampler = Sampler::with_rules(Params::default(), vec![Box::new(rule)]);
    let behind = |ahead: &[u32]| sampler.draft_distribution(&logits, ahead, 6).candidates().len();
    assert_eq!(
        [behind(&[]), behind(&[5]), behind(&[5, 5]), behind(&[5, 5, 3]), behind(&[5, 5, 3, 2])],
        [6, 6, 1, 1, 6]
    );
    // What cuts it is forced, in one piece.
    let mut sampler = Sampler::with_rules(Params::default(), vec![Box::new(Budget::new(1, marks(), true))]);
    assert!(sampler.forced().is_empty());
    sampler.accept(5);
    assert_eq!(sampler.forced(), [3, 2]);
    // Asked what may be read behind guesses, it says so before it acts.
    let greedy = Params { temperature: 0.0, ..Params::default() };
    let sampler = Sampler::with_rules(greedy, vec![Box::new(Budget::new(2, marks(), true))]);
    assert!(sampler.wish(1, 64).is_some());
    assert_eq!(sampler.wish(2, 64), None);
}
