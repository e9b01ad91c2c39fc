//! Log-probabilities of llama.cpp along its greedy answers (`tests/data/README.md`).

mod common;

use common::{GEMMA3, SMOLLM2, exact_options, json_lines, load, log_softmax, model_path};
use foreword::backend::cpu::Cpu;
use foreword::batch::Batch;

/// Largest difference at the reference's choice, and the mean over its ten most probable tokens.
const TOP: f64 = 0.05;
const TAIL_MEAN: f64 = 0.08;

fn follow(model_file: &str, golden: &str) {
    let mut model = load(&model_path(model_file), &exact_options(512), Cpu::new(2));
    let (mut worst, mut sum, mut n, mut agree, mut steps) = (0.0f64, 0.0, 0, 0, 0);
    for line in json_lines(golden) {
        let ids = |v: &serde_json::Value| v.as_u64().expect("an id") as u32;
        let mut next: Vec<u32> = line["prompt_tokens"].as_array().expect("tokens").iter().map(ids).collect();
        let seq = model.kv_mut().new_seq();
        let (mut batch, mut logits) = (Batch::new(), Vec::new());
        for step in line["steps"].as_array().expect("steps") {
            batch.clear();
            batch.push_run(seq, &next, true);
            pollster::block_on(model.forward(&batch, &mut logits)).expect("a forward");
            model.kv_mut().commit_run(seq).expect("a commit");
            let ours = log_softmax(&logits);
            let chosen = ids(&step["id"]);
            worst = worst.max((ours[chosen as usize] - step["logprob"].as_f64().expect("a number")).abs());
            for pair in step["top"].as_array().expect("pairs") {
                let diff = ours[ids(&pair[0]) as usize] - pair[1].as_f64().expect("a number");
                sum += diff.abs();
                n += 1;
            }
            let best = (0..ours.len()).max_by(|&a, &b| ours[a].total_cmp(&ours[b])).expect("a vocabulary");
            agree += usize::from(best == chosen as usize);
            steps += 1;
            next = vec![chosen];
        }
        model.kv_mut().free(seq);
    }
    let mean = sum / f64::from(n);
    println!(
        "{model_file}: worst at the choice {worst:.4}, mean over the top ten {mean:.4}, same choice {agree}/{steps}"
    );
    assert!(worst <= TOP, "log-probability of a chosen token is off by {worst}");
    assert!(mean <= TAIL_MEAN, "log-probabilities are off by {mean} on average");
    assert!(agree * 100 >= steps * 98, "only {agree} of {steps} choices agree");
}

#[test]
fn smollm2_follows_llama_cpp() {
    follow(SMOLLM2, "smollm2-135m-instruct-q4_1-logprobs.jsonl");
}

#[test]
fn gemma3_follows_llama_cpp() {
    follow(GEMMA3, "gemma-3-270m-q4_k_m-logprobs.jsonl");
}
