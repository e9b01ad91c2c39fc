//! `foreword perplexity`, by llama.cpp's chunking: windows of the text side by side, the second half of each is scored.

use crate::args::PerplexityArgs;
use crate::divergence::{Comparing, Divergence, Saving, Scored};
use crate::windows::{Perplexity, measure};
use crate::{load, term};
use foreword::Result;
use serde_json::json;

pub(crate) fn perplexity(args: &PerplexityArgs) -> Result<()> {
    let context = args.windows.context;
    let how = (args.threads, args.cache_type, args.backend);
    let (mut engine, windows) = load::windows(&args.model, &args.file, &args.windows, how)?;
    let bos = engine.tokenizer().add_bos();
    let n_vocab = engine.model().config().n_vocab;
    let scored = Scored { tokens: &windows, context, n_vocab };
    let mut saving = args.save_logits.as_ref().map(|path| Saving::create(path, &scored)).transpose()?;
    let mut comparing = args.against.as_ref().map(|path| Comparing::open(path, &scored)).transpose()?;
    let mut row = |logits: &[f32]| {
        saving.as_mut().map_or(Ok(()), |saving| saving.add(logits))?;
        comparing.as_mut().map_or(Ok(()), |comparing| comparing.add(logits))
    };
    let bar = indicatif::ProgressBar::new((windows.len() / context) as u64);
    let windows = windows.chunks_exact(context);
    let measured = pollster::block_on(measure(engine.model_mut(), windows, bos, &mut row, &mut || bar.inc(1)))?;
    bar.finish_and_clear();
    saving.map_or(Ok(()), Saving::finish)?;
    report(args, measured, comparing.map(Comparing::finish))
}

fn report(
    args: &PerplexityArgs,
    Perplexity { perplexity, stderr, tokens }: Perplexity,
    found: Option<Divergence>,
) -> Result<()> {
    if args.report.json {
        let mut out = json!({ "perplexity": perplexity, "stderr": stderr, "tokens": tokens });
        if let Some(found) = found {
            out["kl_mean"] = found.mean.into();
            out["kl_median"] = found.median.into();
            out["kl_999"] = found.high.into();
            out["top_agreement"] = found.agreement.into();
        }
        return term::print_json(&out);
    }
    term::print(&format!("perplexity {perplexity:.4} ± {stderr:.4} over {tokens} tokens\n"))?;
    let Some(Divergence { mean, median, high, agreement }) = found else { return Ok(()) };
    term::print(&format!(
        "divergence {mean:.5} nats a token (median {median:.5}, 99.9 % below {high:.4}), the same first choice in {:.2} %\n",
        agreement * 100.0
    ))
}
