//! Which form of tree emits most tokens a round: an artificial drafter, and (a long run, left out by default) a model's own
//! first layers on real prompts.

mod common;

use common::random::Random;
use common::rounds::{round, uniform};
use common::{SMOLLM2, expected, model_path};
use foreword::backend::CacheType;
use foreword::backend::cpu::Cpu;
use foreword::batch::{Batch, BatchToken, SeqId};
use foreword::chat::{ChatTemplate, Message};
use foreword::engine::Engine;
use foreword::gguf::source::{FileSource, Source};
use foreword::model::ModelOptions;
use foreword::sample::{Logits, Params, Sampler};
use foreword::speculate::draft::{Context, Drafter, Layers, Proposal};
use foreword::speculate::verify::choose;
use foreword::speculate::{Growth, Prediction, Probs, Shape, Tree};
use std::collections::HashMap;

const N_VOCAB: usize = 48;

/// Logits of the artificial target and of its drafter: the target's, flattened and with noise.
fn artificial(before: &[u32]) -> [Vec<f32>; 2] {
    let last = before.last().copied().map(u64::from);
    let mut r = Random::new(last.map_or(9, |t| t * 31 + 77));
    let target: Vec<f32> = (0..N_VOCAB).map(|_| (r.float() + r.float()) * 3.0).collect();
    let mut r = Random::new(last.map_or(3, |t| t * 17 + 5));
    let draft = target.iter().map(|l| 0.6 * l + 2.0 * r.float()).collect();
    [target, draft]
}

fn softmax(logits: &[f32], temperature: f32) -> Probs {
    let weight = |(i, l): (usize, &f32)| (i as u32, f64::from(l / temperature).exp());
    Probs::from_weights(logits.iter().enumerate().map(weight).collect())
}

/// Mean and standard error.
fn mean(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    (mean, (values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0) / n).sqrt())
}

/// Tokens a round, drawn and expected; see [`mean`].
fn block_efficiency(shape: &Shape, temperature: f32, rounds: usize) -> [(f64, f64); 2] {
    let target = move |before: &[u32]| softmax(&artificial(before)[0], temperature);
    let draft = move |before: &[u32]| softmax(&artificial(before)[1], temperature);
    let mut random = Random::new(u64::from(temperature.to_bits()));
    let (mut text, mut drawn, mut wanted) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let seen = |tree: &Tree| {
            let q = |path: &[u32], tokens: &[u32]| {
                let law = target(&[&text, path].concat());
                tokens.iter().map(|&t| law.p(t)).collect()
            };
            wanted.extend(expected::tokens(tree, shape.replaces(), &mut { q }).last());
        };
        let out = round((&target, &draft), shape, &choose, &text, &mut || uniform(&mut random), seen);
        text = vec![out[out.len() - 1]];
        drawn.push(out.len() as f64);
    }
    [mean(&drawn), mean(&wanted)]
}

#[test]
fn trees_without_replacement_emit_most_tokens() {
    for temperature in [0.3, 0.6, 1.0] {
        for budget in [6, 14, 30] {
            let methods = ["rsd-s", "rsd-c", "independent", "chain"];
            let found = methods.map(|method| {
                let shape = Shape::of(method, budget, None).expect("a shape");
                let [drawn, wanted] = block_efficiency(&shape, temperature, 3000);
                // The number is an expectation over the same trees: only the luck of verification may differ.
                let slack = 4.0 * drawn.1;
                assert!((drawn.0 - wanted.0).abs() < slack, "{method}: {drawn:?} drawn, {wanted:?} expected");
                drawn
            });
            for (method, (mean, error)) in methods.iter().zip(found) {
                println!("temperature {temperature}, budget {budget}, {method:<12} {mean:.3} ± {:.3}", 1.96 * error);
            }
            for (better, worse) in [(0, 1), (1, 2), (2, 3)] {
                let ((a, x), (b, y)) = (found[better], found[worse]);
                let slack = 3.0 * (x * x + y * y).sqrt();
                assert!(a >= b - slack, "{}: {a:.3}, {}: {b:.3}", methods[better], methods[worse]);
            }
            assert!(found[0].0 > found[3].0, "trees beat chains");
        }
    }
}

/// A model at one place of a text. What it and its drafter say behind a path is computed once for all trees.
struct Place {
    engine: Engine,
    drafter: Layers,
    sampler: Sampler,
    text: Vec<u32>,
    seq: SeqId,
    drafts: HashMap<Vec<u32>, Proposal>,
    /// The target's weights behind a path, `exp(logit / temperature)`, and their sum.
    targets: HashMap<Vec<u32>, (Vec<f32>, f32)>,
}

impl Place {
    /// Begins a text.
    fn begin(&mut self, text: Vec<u32>) {
        self.engine.model_mut().kv_mut().free(self.seq);
        self.seq = self.engine.model_mut().kv_mut().new_seq();
        self.text = Vec::new();
        self.go_on(text);
    }

    /// The text goes on; its last token stays outside the cache, as in the engine.
    fn go_on(&mut self, tokens: Vec<u32>) {
        let model = self.engine.model_mut();
        self.text.extend(tokens);
        let known = model.kv().len(self.seq);
        for piece in self.text[known..self.text.len() - 1].chunks(256) {
            let mut batch = Batch::new();
            batch.push_run(self.seq, piece, false);
            pollster::block_on(model.forward(&batch, &mut Vec::new())).expect("a forward");
            model.kv_mut().commit_run(self.seq).expect("room");
        }
        self.drafts.clear();
        self.targets.clear();
    }

    /// Draws a tree; `enough` is asked after every level.
    fn tree(&mut self, shape: &Shape, mut enough: impl FnMut(&mut Self, &Tree) -> bool) -> Tree {
        let mut growth = Growth::new(shape.clone());
        loop {
            let slots = growth.wanted();
            if slots.is_empty() || enough(self, growth.tree()) {
                return growth.finish();
            }
            let path = |&slot: &usize| growth.tree().path(slot);
            let new: Vec<usize> = slots.iter().copied().filter(|s| !self.drafts.contains_key(&path(s))).collect();
            if !new.is_empty() {
                let (text, sampler, target) = (&self.text[..], &self.sampler, self.engine.model_mut());
                let context = Context {
                    target,
                    seq: self.seq,
                    request: 0,
                    text,
                    prediction: Prediction::default(),
                    sampler,
                    tree: growth.tree(),
                };
                let found = pollster::block_on(self.drafter.propose(context, &new)).expect("proposals");
                self.drafts.extend(new.iter().map(path).zip(found));
            }
            let proposals = slots.iter().map(|s| self.drafts[&path(s)].clone()).collect();
            growth.grow(proposals, true, &mut || self.sampler.unit());
        }
    }

    /// Runs the target behind all paths of these trees that are not known yet, in one batch.
    fn ask(&mut self, trees: &[&Tree]) {
        let root = *self.text.last().expect("a text");
        let (mut batch, mut rows) = (Batch::new(), HashMap::<Vec<u32>, u32>::new());
        let mut asked = Vec::new();
        for tree in trees {
            for slot in 0..=tree.nodes().len() {
                let path = tree.path(slot);
                if rows.contains_key(&path) {
                    continue;
                }
                let output = !self.targets.contains_key(&path) && tree.children(slot).next().is_some();
                let parent = path.split_last().map(|(_, before)| rows[before]);
                let token = path.last().copied().unwrap_or(root);
                let row = batch.push(BatchToken { token, seq: self.seq, parent, output });
                asked.extend(output.then(|| path.clone()));
                rows.insert(path, row);
            }
        }
        if asked.is_empty() {
            return;
        }
        let mut logits = Vec::new();
        pollster::block_on(self.engine.model_mut().forward(&batch, &mut logits)).expect("a forward");
        let temperature = self.sampler.params().temperature;
        let rows = logits.chunks_exact(logits.len() / asked.len()).map(|row| {
            let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let weights: Vec<f32> = row.iter().map(|l| ((l - largest) / temperature).exp()).collect();
            let sum = weights.iter().sum();
            (weights, sum)
        });
        self.targets.extend(asked.into_iter().zip(rows));
    }

    /// Expected tokens of a round by depth.
    fn expected(&mut self, tree: &Tree, replaces: bool) -> Vec<f64> {
        self.ask(&[tree]);
        expected::tokens(tree, replaces, &mut |path, tokens| {
            let (weights, sum) = &self.targets[path];
            tokens.iter().map(|&t| f64::from(weights[t as usize] / sum)).collect()
        })
    }

    /// So many tokens of the target's own.
    fn answer(&mut self, n: usize) {
        for _ in 0..n {
            let mut batch = Batch::new();
            let token = *self.text.last().expect("a text");
            batch.push(BatchToken { token, seq: self.seq, parent: None, output: true });
            let mut logits = Vec::new();
            pollster::block_on(self.engine.model_mut().forward(&batch, &mut logits)).expect("a forward");
            let token = self.sampler.sample(Logits::All(&logits));
            self.go_on(vec![token]);
        }
    }
}

/// A form of tree of the experiment.
struct Form {
    /// The name in the output, `METHOD BUDGET SHAPE` or `METHOD depth D`.
    name: String,
    shape: Shape,
}

/// The paper's forms for its budgets, those of `Shape::of`, and trees of equal depth.
fn forms() -> Vec<Form> {
    let mut forms = Vec::new();
    let mut push = |what: &str, shape: Shape| {
        let form = format!("{shape:?}").replace(' ', "");
        forms.push(Form { name: format!("{what} {form}"), shape });
    };
    let tail = |first: usize, depth: usize| [vec![first], vec![1; depth - 1]].concat();
    for (budget, sizes, branchings) in [
        (6, vec![(2, 3), (3, 2)], vec![vec![2, 1, 1]]),
        (10, vec![(2, 5), (3, 3), (5, 2)], vec![vec![2, 2, 1], vec![2, 1, 1, 1, 1]]),
        (14, vec![(2, 7), (3, 4), (7, 2)], vec![vec![2, 2, 2], tail(2, 7)]),
        (21, vec![(3, 7), (4, 5), (7, 3)], vec![vec![3, 2, 2], tail(3, 7)]),
        (30, vec![(5, 6), (6, 5)], vec![vec![2, 2, 2, 2], tail(5, 6)]),
    ] {
        for (width, depth) in sizes {
            push(&format!("rsd-s {budget}"), Shape::Beam { width, depth });
            push(&format!("independent {budget}"), Shape::Independent(tail(width, depth)));
        }
        for branching in branchings {
            push(&format!("rsd-c {budget}"), Shape::Constant(branching));
        }
    }
    for depth in 2..=5 {
        let binary = Shape::Constant(vec![2; depth]);
        let width = binary.size() / depth;
        push(&format!("rsd-s depth{depth}"), Shape::Beam { width, depth });
        push(&format!("independent depth{depth}"), Shape::Independent(tail(width, depth)));
        push(&format!("rsd-c depth{depth}"), binary);
    }
    forms
}

/// The longest chain of the experiment, and the others, which are its first levels.
const CHAINS: [usize; 9] = [6, 10, 14, 21, 30, 2, 3, 4, 5];

/// One line of output: what each form yields at this place.
fn measure(place: &mut Place, forms: &[Form]) -> serde_json::Map<String, serde_json::Value> {
    let trees: Vec<Tree> = forms.iter().map(|f| place.tree(&f.shape, |_, _| false)).collect();
    place.ask(&trees.iter().collect::<Vec<_>>());
    let mut found = serde_json::Map::new();
    for (form, tree) in forms.iter().zip(&trees) {
        let all = place.expected(tree, form.shape.replaces());
        found.insert(form.name.clone(), all.last().copied().into());
    }
    // A level that is reached less than once in 500 rounds adds next to nothing.
    let chain = place.tree(&Shape::Constant(vec![1; 30]), |place, tree| {
        let n = tree.nodes().len();
        n > 4 && n % 3 == 0 && {
            let by_depth = place.expected(tree, false);
            by_depth[n] - by_depth[n - 1] < 0.002
        }
    });
    let by_depth = place.expected(&chain, false);
    for n in CHAINS {
        let name = if n < 6 { format!("chain depth{n}") } else { format!("chain {n}") };
        found.insert(name, by_depth[n.min(by_depth.len() - 1)].into());
    }
    found
}

/// Prints the time of a forward of 1 to 16 rows behind 256 tokens, logits of all rows, in milliseconds: medians of 25.
#[test]
#[ignore = "measures time; its figures are in docs/speculation"]
fn cost_of_rows() {
    let path = model_path(SMOLLM2);
    let mut model = common::load(&path, &common::exact_options(1024), Cpu::new(2));
    let seq = model.kv_mut().new_seq();
    let mut batch = Batch::new();
    batch.push_run(seq, &(1000..1256).collect::<Vec<u32>>(), false);
    let mut logits = Vec::new();
    pollster::block_on(model.forward(&batch, &mut logits)).expect("a forward");
    model.kv_mut().commit_run(seq).expect("room");
    let mut times = vec![Vec::new(); 16];
    // In turn, so that a machine whose speed drifts treats all sizes alike.
    for _ in 0..25 {
        for (i, times) in times.iter_mut().enumerate() {
            batch.clear();
            for row in 0..=i as u32 {
                let parent = row.checked_sub(1);
                batch.push(BatchToken { token: 2000 + row, seq, parent, output: true });
            }
            let began = std::time::Instant::now();
            pollster::block_on(model.forward(&batch, &mut logits)).expect("a forward");
            times.push(began.elapsed().as_secs_f64() * 1e3);
        }
    }
    for (i, times) in times.iter_mut().enumerate() {
        times.sort_by(f64::total_cmp);
        println!("{}", serde_json::json!({"rows": i + 1, "ms": times[12]}));
    }
}

/// Prints a line of JSON for every place. `FOREWORD_PROMPTS` is a file as `bench speculate --dataset` takes it, with
/// `turns`; `FOREWORD_LAYERS` and `FOREWORD_TEMPERATURE` are the drafter's layers and the temperature.
#[test]
#[ignore = "takes an hour; its figures are in docs/speculation"]
fn forms_of_trees_on_real_prompts() {
    let var = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"));
    let layers: usize = var("FOREWORD_LAYERS").parse().expect("a number");
    let temperature: f32 = var("FOREWORD_TEMPERATURE").parse().expect("a number");
    let prompts = std::fs::read_to_string(var("FOREWORD_PROMPTS")).expect("a file");
    let source: Box<dyn Source> = Box::new(FileSource::open(&model_path(SMOLLM2)).expect("a model file"));
    let options = ModelOptions { cache_type: CacheType::F32, max_batch: 1024, ..common::exact_options(4096) };
    let cpu = Box::new(Cpu::new(2));
    let mut engine =
        pollster::block_on(Engine::load(vec![source], cpu, &options, || 0.0, &mut |_| {})).expect("a sound model");
    let template = ChatTemplate::from_gguf(&engine.gguf().metadata, engine.tokenizer()).expect("a template");
    let drafter = Layers::new(engine.model(), layers).expect("layers");
    let seq = engine.model_mut().kv_mut().new_seq();
    let sampler = Sampler::new(Params { temperature, ..Params::default() });
    let (drafts, targets) = (HashMap::new(), HashMap::new());
    let mut place = Place { engine, drafter, sampler, text: Vec::new(), seq, drafts, targets };
    let forms = forms();
    for (i, line) in prompts.lines().enumerate() {
        let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let question = line["turns"][0].as_str().expect("a turn");
        let rendered = template.render(&[Message::new("user", question)], None, true).expect("a prompt");
        let text = place.engine.prompt(&rendered, true);
        place.begin(text);
        for _ in 0..4 {
            let found = measure(&mut place, &forms);
            let about = serde_json::json!({"prompt": i, "category": line["category"], "temperature": temperature});
            println!("{}", serde_json::json!({"about": about, "found": found}));
            place.answer(12);
        }
    }
}
