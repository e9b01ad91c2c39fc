//! Speculation emits the target's tokens: whatever is guessed, by every method and under every sampler setting, the first
//! two tokens are distributed as without guesses. Chi-square tests over all pairs, 100,000 samples each.

use crate::common::data;
use crate::common::random::Random;
use crate::common::rounds::{Chooser, Law, round, uniform, verify};
use crate::common::rules::{ByPath, Next};
use foreword::backend::CacheType;
use foreword::backend::cpu::Cpu;
use foreword::batch::SeqId;
use foreword::model::{Model, ModelOptions};
use foreword::sample::{Logits, Params, Rule, Sampler};
use foreword::speculate::budget::Cost;
use foreword::speculate::draft::{CLASSES, Context, Drafter, Ngram, Proposal, Proposals};
use foreword::speculate::verify::{Choice, choose};
use foreword::speculate::{Growth, Mode, Prediction, Probs, Shape, Speculation, Subject};
use std::cell::RefCell;
use std::collections::HashMap;

const SAMPLES: usize = 100_000;

/// The smallest p-value that a sound method may show; some 200 tests are made, with fixed seeds.
const LEAST_P: f64 = 1e-5;

fn weights(list: &[f64]) -> Probs {
    Probs::from_weights(list.iter().enumerate().map(|(i, &w)| (i as u32, w)).collect())
}

/// Upper tail of the chi-square distribution: the regularised incomplete gamma function by its series or its continued
/// fraction (Numerical Recipes, section 6.2).
fn p_value(chi2: f64, degrees: f64) -> f64 {
    let (a, x) = (degrees / 2.0, chi2 / 2.0);
    if x <= 0.0 {
        return 1.0;
    }
    let front = (a * x.ln() - x - ln_gamma(a)).exp();
    if x < a + 1.0 {
        let (mut term, mut sum) = (1.0 / a, 1.0 / a);
        for n in 1..1000 {
            term *= x / (a + f64::from(n));
            sum += term;
        }
        return 1.0 - front * sum;
    }
    let (mut b, mut c) = (x + 1.0 - a, 1e300);
    let mut d = 1.0 / b;
    let mut h = d;
    for n in 1..1000 {
        let an = -f64::from(n) * (f64::from(n) - a);
        b += 2.0;
        d = 1.0 / (an * d + b);
        c = b + an / c;
        h *= d * c;
    }
    front * h
}

/// Lanczos's approximation.
fn ln_gamma(x: f64) -> f64 {
    const C: [f64; 6] = [
        76.180_091_729_471_46,
        -86.505_320_329_416_77,
        24.014_098_240_830_91,
        -1.231_739_572_450_155,
        0.120_865_097_386_617_9e-2,
        -0.539_523_938_495_3e-5,
    ];
    let t = x + 5.5;
    let sum = C.iter().enumerate().fold(1.000_000_000_190_015, |s, (i, c)| s + c / (x + 1.0 + i as f64));
    (2.506_628_274_631_000_5 * sum / x).ln() - (t - (x + 0.5) * t.ln())
}

#[test]
fn probabilities_are_above_zero_and_those_of_equal_tokens_are_one() {
    let probs = Probs::from_weights(vec![(7, 1e-300), (3, 1e300), (9, f64::NAN), (5, -1.0), (3, 1e300)]);
    assert_eq!(probs.entries(), [(3, 1.0)]);
}

#[test]
fn p_values_are_those_of_the_tables() {
    for (chi2, degrees, p) in [(3.841, 1.0, 0.05), (18.307, 10.0, 0.05), (29.588, 10.0, 0.001), (124.342, 100.0, 0.05)]
    {
        assert!((p_value(chi2, degrees) / p - 1.0).abs() < 2e-3, "{chi2} of {degrees}: {}", p_value(chi2, degrees));
    }
}

/// Chi-square p-value of the first two tokens; 0 when one came that cannot come.
fn p_of_pairs(target: &Law, mut pair: impl FnMut() -> [u32; 2]) -> f64 {
    let mut counts = HashMap::<[u32; 2], f64>::new();
    for _ in 0..SAMPLES {
        *counts.entry(pair()).or_default() += 1.0;
    }
    let (mut chi2, mut degrees, mut rare, mut rare_want) = (0.0, -1.0, 0.0, 0.0);
    for &(a, p) in target(&[]).entries() {
        for &(b, q) in target(&[a]).entries() {
            let (got, want) = (counts.remove(&[a, b]).unwrap_or(0.0), p * q * SAMPLES as f64);
            if want < 5.0 {
                (rare, rare_want) = (rare + got, rare_want + want);
            } else {
                chi2 += (got - want) * (got - want) / want;
                degrees += 1.0;
            }
        }
    }
    if !counts.is_empty() {
        return 0.0;
    }
    if rare_want >= 1.0 {
        chi2 += (rare - rare_want) * (rare - rare_want) / rare_want;
        degrees += 1.0;
    } else if rare > 8.0 {
        return 0.0;
    }
    if degrees < 1.0 { 1.0 } else { p_value(chi2, degrees) }
}

/// The same law, asked once for each text.
fn remembered(law: impl Fn(&[u32]) -> Probs) -> impl Fn(&[u32]) -> Probs {
    let known = RefCell::new(HashMap::<Vec<u32>, Probs>::new());
    move |before| {
        let found = known.borrow().get(before).cloned();
        found.unwrap_or_else(|| known.borrow_mut().entry(before.to_vec()).or_insert(law(before)).clone())
    }
}

fn p_of(laws: (&Law, &Law), shape: &Shape, chooser: &Chooser, seed: u64) -> f64 {
    let mut random = Random::new(seed);
    p_of_pairs(laws.0, || {
        let mut unit = || uniform(&mut random);
        let mut out = Vec::new();
        while out.len() < 2 {
            let more = round(laws, shape, chooser, &out, &mut unit, |_| ());
            out.extend(more);
        }
        [out[0], out[1]]
    })
}

fn shapes() -> Vec<(&'static str, Shape)> {
    vec![
        ("chain", Shape::Constant(vec![1, 1])),
        ("rsd-c", Shape::Constant(vec![3, 2])),
        ("rsd-c wide", Shape::Constant(vec![9])),
        ("rsd-s", Shape::Beam { width: 3, depth: 2 }),
        ("rsd-s wide", Shape::Beam { width: 8, depth: 3 }),
        ("independent", Shape::Independent(vec![3, 2])),
    ]
}

/// Target and draft by the number of tokens before.
type Case = (&'static str, [Vec<f64>; 2], [Vec<f64>; 2]);

/// Pairs of laws that are hard in one way each.
fn cases() -> Vec<Case> {
    let (a, b) = (vec![0.4, 0.3, 0.2, 0.07, 0.03], vec![0.1, 0.1, 0.2, 0.25, 0.35]);
    vec![
        ("unlike", [a.clone(), b.clone()], [b.clone(), a.clone()]),
        ("draft = target", [a.clone(), b.clone()], [a.clone(), b.clone()]),
        ("ties", [vec![0.2; 5], a.clone()], [vec![0.2; 5], vec![0.2; 5]]),
        ("zeros", [vec![0.5, 0.0, 0.3, 0.0, 0.2], a.clone()], [vec![0.0, 0.6, 0.4, 0.0, 0.0], b.clone()]),
        ("disjoint", [vec![0.6, 0.4, 0.0, 0.0, 0.0], b.clone()], [vec![0.0, 0.0, 0.5, 0.3, 0.2], a.clone()]),
        (
            "certain draft",
            [a.clone(), b.clone()],
            [vec![1.0 - 1e-12, 1e-12, 0.0, 0.0, 0.0], vec![0.0, 0.0, 0.0, 1.0, 0.0]],
        ),
        ("certain target", [vec![1e-9, 1.0, 1e-9, 0.0, 0.0], b.clone()], [a.clone(), vec![0.2; 5]]),
        ("greedy target", [vec![0.0, 0.0, 1.0, 0.0, 0.0], b], [a.clone(), a]),
    ]
}

/// Laws that depend on the token before, too.
fn turned(list: &[Vec<f64>; 2]) -> impl Fn(&[u32]) -> Probs + use<> {
    let list = list.clone();
    move |before: &[u32]| {
        let mut w = list[before.len().min(1)].clone();
        if let Some(&last) = before.last() {
            w.rotate_right(last as usize % 2 * 2);
        }
        weights(&w)
    }
}

fn check(name: &str, p: f64, all: &mut Vec<f64>) {
    println!("{name:<60} p = {p:.4}");
    assert!(p > LEAST_P, "{name}: p = {p:e}");
    all.push(p);
}

#[test]
fn every_method_emits_the_targets_tokens() {
    let mut all = Vec::new();
    for (i, (case, target, draft)) in cases().iter().enumerate() {
        let (target, draft) = (remembered(turned(target)), remembered(turned(draft)));
        for (j, (name, shape)) in shapes().iter().enumerate() {
            let p = p_of((&target, &draft), shape, &choose, (i * 10 + j) as u64 + 1);
            check(&format!("{case}, {name}"), p, &mut all);
        }
    }
    // p-values of a sound method are spread evenly; those of certain laws are 1.
    let below = all.iter().filter(|p| **p < 0.5).count() as f64;
    let n = all.iter().filter(|p| **p < 1.0).count() as f64;
    assert!((below - n / 2.0).abs() < 4.0 * (n / 4.0).sqrt(), "{below} of {n} p-values are below 0.5");
}

/// A name, and what tokens are chosen by.
type Setting = (&'static str, Params, Vec<Box<dyn Rule>>);

/// Sampler settings, each with something of its own.
fn settings() -> Vec<Setting> {
    let p = Params::default();
    let none = Vec::new;
    let penalties = Params { repetition_penalty: 1.5, presence_penalty: 0.5, frequency_penalty: 0.3, ..p.clone() };
    let all = Params { temperature: 0.7, top_k: 4, top_p: 0.95, min_p: 0.05, presence_penalty: 0.4, ..p.clone() };
    vec![
        ("temperature 0.3", Params { temperature: 0.3, ..p.clone() }, none()),
        ("temperature 1.5", Params { temperature: 1.5, ..p.clone() }, none()),
        ("top-k", Params { top_k: 3, ..p.clone() }, none()),
        ("top-p", Params { top_p: 0.8, ..p.clone() }, none()),
        ("min-p", Params { min_p: 0.2, ..p.clone() }, none()),
        ("typical-p", Params { typical_p: 0.8, ..p.clone() }, none()),
        ("penalties", penalties.clone(), none()),
        ("bias", Params { logit_bias: vec![(0, 1.5), (2, f32::NEG_INFINITY)], ..p.clone() }, none()),
        ("rule", p, vec![Box::new(ByPath::default())]),
        ("rules and penalties", penalties, vec![Box::new(Next::new(1.5)), Box::new(ByPath::default())]),
        ("all", all, none()),
    ]
}

/// Logits of a small model that depend on the last token.
fn logits(seed: u64, before: &[u32]) -> Vec<f32> {
    let mut r = Random::new(seed + before.last().map_or(0, |&t| u64::from(t) + 1) * 17);
    (0..6).map(|_| r.float() * 2.0).collect()
}

#[test]
fn every_sampler_setting_is_kept() {
    let mut all = Vec::new();
    for (i, (setting, params, rules)) in settings().into_iter().enumerate() {
        let sampler = move || Sampler::with_rules(params.clone(), rules.clone());
        let own = sampler.clone();
        let target = remembered(move |before| {
            let mut sampler = own();
            before.iter().for_each(|&t| sampler.accept(t));
            Probs::of(sampler.distribution(Logits::All(&logits(1, before))))
        });
        // The drafter's model is another one; the settings apply to it, too.
        let draft = remembered(move |before| Probs::of(&sampler().draft_distribution(&logits(2, before), before, 64)));
        for (j, (name, shape)) in shapes().iter().enumerate() {
            let p = p_of((&target, &draft), shape, &choose, 1000 + (i * 10 + j) as u64);
            check(&format!("{setting}, {name}"), p, &mut all);
        }
    }
}

/// What may be broken in the residual.
#[derive(Clone, Copy)]
enum Mutation {
    /// The rest is drawn from the target instead of the residual.
    TargetForResidual,
    /// The residual keeps what the draft covered.
    NotSubtracted,
    /// The draft is not renormalised without the rejected sibling.
    DraftNotRenormalised,
    /// Siblings without replacement are verified as if drawn with it.
    WithReplacement,
}

/// Recursive rejection sampling on plain vectors, with one thing broken.
fn broken(mutation: Mutation) -> impl Fn(Probs, Option<&Probs>, &[u32], bool, &mut dyn FnMut() -> f64) -> Choice {
    move |target, law, drawn, replaces, unit| {
        let Some(law) = law else { return choose(target, law, drawn, replaces, unit) };
        if matches!(mutation, Mutation::WithReplacement) {
            return choose(target, Some(law), drawn, true, unit);
        }
        let norm = |v: Vec<f64>| {
            let sum: f64 = v.iter().sum();
            v.into_iter().map(|x| x / sum).collect::<Vec<f64>>()
        };
        let dense = |p: &Probs| (0..8).map(|t| p.p(t)).collect::<Vec<f64>>();
        let (full, mut q, mut p) = (dense(&target), dense(&target), dense(law));
        for (k, &x) in drawn.iter().enumerate() {
            let x = x as usize;
            if unit() * p[x] < q[x] {
                return Choice::Accepted(k);
            }
            if !matches!(mutation, Mutation::NotSubtracted) {
                q = norm(q.iter().zip(&p).map(|(q, p)| (q - p).max(0.0)).collect());
            }
            p[x] = 0.0;
            if !matches!(mutation, Mutation::DraftNotRenormalised) {
                p = norm(p);
            }
        }
        let rest = if matches!(mutation, Mutation::TargetForResidual) { full } else { q };
        Choice::Emitted(weights(&rest).pick(unit()).unwrap_or(0))
    }
}

#[test]
fn broken_residuals_are_found() {
    use Mutation::{DraftNotRenormalised, NotSubtracted, TargetForResidual, WithReplacement};
    let (_, target, draft) = &cases()[0];
    let laws: (&Law, &Law) = (&turned(target), &turned(draft));
    for (name, shape) in [("rsd-c", Shape::Constant(vec![3, 2])), ("rsd-s", Shape::Beam { width: 3, depth: 2 })] {
        for (i, mutation) in
            [TargetForResidual, NotSubtracted, DraftNotRenormalised, WithReplacement].into_iter().enumerate()
        {
            let p = p_of(laws, &shape, &broken(mutation), 7);
            println!("{name}, mutation {i}: p = {p:e}");
            assert!(p < 1e-12, "{name}: mutation {i} is not found, p = {p}");
        }
    }
}

/// Guesses from fixed laws.
struct Fixed<F>(F);

impl<F: Fn(&[u32]) -> Proposal + Send> Drafter for Fixed<F> {
    fn propose<'a>(&'a mut self, context: Context<'a>, slots: &'a [usize]) -> Proposals<'a> {
        let law = |&slot: &usize| (self.0)(&[context.text, &context.tree.path(slot)].concat());
        let proposals = slots.iter().map(law).collect();
        Box::pin(async move { Ok(proposals) })
    }
    fn end(&mut self, _: u64) {}
    fn is_model(&self) -> bool {
        false
    }
}

fn tiny_model() -> Model {
    let options = ModelOptions {
        context_length: Some(64),
        cache_type: CacheType::F32,
        cache_tokens: None,
        max_batch: 8,
        kv_memory: None,
    };
    crate::common::load(&data("models/llama.gguf"), &options, Cpu::new(1))
}

#[test]
fn the_adaptive_tree_is_exact_too() {
    let mut model = tiny_model();
    for (i, (case, target, draft)) in cases().iter().enumerate() {
        let (target, draft) = (turned(target), turned(draft));
        // The class says something about the law, as with real drafters.
        let drafter = Fixed(move |text: &[u32]| {
            let law = draft(text);
            let class = (law.largest() * 9.0) as usize;
            Proposal { law, class: class.min(CLASSES - 1) }
        });
        let mut speculation = Speculation::new(Box::new(drafter), Mode::Auto, 100, || 0.0).expect("a mode");
        let mut sampler = Sampler::new(Params { seed: i as u64, ..Params::default() });
        let (mut guesses, mut request) = (0, 0);
        let p = p_of_pairs(&target, || {
            let mut out = Vec::new();
            // A request lasts for some answers, so that acceptance is learnt and drafting pauses and goes on.
            request += 1;
            while out.len() < 2 {
                let (text, seq, sampler) = (&out[..], SeqId(0), &mut sampler);
                let subject = Subject {
                    request: request / 50,
                    seq,
                    text,
                    prediction: Prediction::default(),
                    sampler,
                    rows: 1,
                    room: 20,
                    levels: 20,
                };
                let tree = pollster::block_on(speculation.draft(&mut model, subject));
                guesses += tree.nodes().len();
                let more = verify(&target, &tree, false, &choose, &out, &mut || sampler.unit());
                let mut path = vec![0];
                for token in &more[..more.len() - 1] {
                    let at = *path.last().expect("a slot");
                    let node = tree.children(at).find(|&c| tree.nodes()[c].token == *token).expect("a node");
                    path.push(node + 1);
                }
                speculation.learn(request / 50, &tree, &path);
                out.extend(more);
            }
            [out[0], out[1]]
        });
        println!("{case}: {guesses} guesses");
        assert!(guesses > 1000, "{case}: nothing was drafted");
        check(&format!("{case}, auto"), p, &mut Vec::new());
    }
}

#[test]
fn trees_have_the_form_that_was_asked_for() {
    let mut random = Random::new(3);
    let law = || Proposal { law: weights(&[0.3, 0.3, 0.2, 0.1, 0.06, 0.04]), class: 0 };
    for (_, shape) in shapes() {
        let mut growth = Growth::new(shape.clone());
        while !growth.wanted().is_empty() {
            let laws = growth.wanted().iter().map(|_| law()).collect();
            growth.grow(laws, true, &mut || uniform(&mut random));
        }
        let tree = growth.finish();
        assert!(tree.nodes().len() <= shape.size());
        assert!(tree.nodes().iter().all(|n| n.depth <= shape.depth()));
        for (i, node) in tree.nodes().iter().enumerate() {
            assert!(node.slot <= i, "parents come first");
            assert_eq!(tree.path(i + 1).len(), node.depth);
            if !shape.replaces() {
                let same = |c: usize| tree.nodes()[c].token == node.token;
                assert_eq!(tree.children(node.slot).filter(|&c| same(c)).count(), 1, "drawn without replacement");
            }
        }
    }
    for method in ["chain", "rsd-c", "rsd-s", "independent"] {
        for budget in 1..64 {
            let shape = Shape::of(method, budget, None).expect("a shape");
            assert!(((budget * 2 / 3).max(1)..=budget).contains(&shape.size()), "{method} {budget}: {shape:?}");
        }
        assert!(Shape::of(method, 0, None).is_err());
    }
    assert!(Shape::of("guess", 6, None).is_err());
    for shape in [Shape::Constant(vec![]), Shape::Beam { width: 0, depth: 3 }, Shape::Constant(vec![300])] {
        let refused = Speculation::new(Box::new(Ngram), Mode::Fixed(shape), 255, || 0.0);
        assert_eq!(refused.err().expect("a refusal").kind(), foreword::Kind::InvalidRequest);
    }
}

#[test]
fn lookup_finds_what_followed() {
    let text = [1, 2, 3, 4, 9, 9, 2, 3, 5, 8, 1, 2, 3];
    // "1 2 3" was followed by 4, the shorter "2 3" also by 5.
    let p = Ngram::proposal(&text, Prediction::default(), &[], 1.0);
    assert_eq!(p.law.entries().iter().map(|e| e.0).collect::<Vec<_>>(), [4, 5]);
    assert!(p.law.p(4) > 0.8);
    // Behind a guess.
    let p = Ngram::proposal(&text, Prediction::default(), &[4], 1.0);
    assert_eq!(p.law.p(9), 1.0);
    let p = Ngram::proposal(&text, Prediction::default(), &[7], 1.0);
    assert!(p.law.is_empty());
    assert!(Ngram::proposal(&[], Prediction::default(), &[], 1.0).law.is_empty());
    assert!(Ngram::proposal(&[5], Prediction::default(), &[], 1.0).law.is_empty());
}

#[test]
fn lookup_goes_on_with_a_prediction_from_its_beginning_and_wherever_it_is_met() {
    let prediction = Prediction { prompt: &[1, 2, 3], tokens: &[8, 9, 3, 7] };
    let guess = |text: &[u32], path: &[u32]| {
        let law = Ngram::proposal(text, prediction, path, 1.0).law;
        law.entries().iter().max_by(|a, b| a.1.total_cmp(&b.1)).map(|entry| entry.0)
    };
    assert_eq!([guess(&[1, 2, 3], &[]), guess(&[1, 2, 3], &[8])], [Some(8), Some(9)]);
    assert_eq!([guess(&[1, 2, 3, 8, 9], &[]), guess(&[1, 2, 3, 8, 9], &[3])], [Some(3), Some(7)]);
    assert_eq!([guess(&[1, 2, 3, 5, 5], &[9]), guess(&[1, 2, 3, 8, 9, 3, 7], &[])], [Some(3), None]);
}

#[test]
fn lookup_is_surer_of_longer_matches_and_of_those_that_agree() {
    let class = |text: &[u32]| Ngram::proposal(text, Prediction::default(), &[], 1.0).class;
    // What follows 5, behind 1 to 10 equal tokens, once.
    let single: Vec<usize> = (0..10)
        .map(|n| {
            let same: Vec<u32> = (10..10 + n).chain([5]).collect();
            class(&[&same[..], &[6, 7], &same[..]].concat())
        })
        .collect();
    assert!(
        single.is_sorted() && single[0] < single[1] && single[1] < single[2] && single[7] < single[8],
        "{single:?}"
    );
    for same in [&[5][..], &[4, 5], &[3, 4, 5], &[1, 2, 3, 4, 5], &[1, 2, 3, 4, 5, 1, 2, 3, 5]] {
        let twice = |next: [u32; 2]| class(&[same, &next[..1], &[9, 8], same, &next[1..], &[9], same].concat());
        let once = class(&[same, &[6, 9, 8], same].concat());
        assert!(twice([6, 7]) < once && once < twice([6, 6]), "{same:?}");
    }
}

#[test]
fn the_cost_of_a_forward_is_learnt_at_any_width_and_never_falls_with_its_rows() {
    let rises = |cost: &Cost| (1..400).all(|n| cost.ratio(n) >= 1.0 && cost.ratio(n + 1) >= cost.ratio(n));
    // Whatever times are: the width of a batch is up to the model.
    for seed in 0..50 {
        let (mut r, mut cost) = (Random::new(seed), Cost::default());
        for _ in 0..200 {
            cost.measured(1 + r.below(400), r.below(1000) as f64);
            assert!(rises(&cost), "{cost:?}");
        }
    }
    let (mut r, mut cost) = (Random::new(1), Cost::default());
    let time = |rows: usize| 10.0 + 0.5 * rows as f64;
    for _ in 0..2000 {
        let rows = [1, 4, 60, 256][r.below(4)];
        cost.measured(rows, time(rows));
    }
    for rows in [1, 4, 60, 256] {
        let (got, wanted) = (cost.ratio(rows), time(rows) / time(1));
        assert!((0.9..1.1).contains(&(got / wanted)), "{got} for {rows} rows, not {wanted}");
    }
}
