//! What was typed to measure speed and quality.

use super::{CacheArg, JsonArg, LoadArgs, ModelArg, WindowArgs};
use crate::bench::{ConstrainArgs, StartArgs};
use crate::contrast::mode as contrast_mode;
use clap::{Args, Subcommand};
use foreword::backend::Choice;
use foreword::sample::ContrastMode;
use std::ffi::OsString;
use std::path::PathBuf;

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    pub(crate) command: Option<BenchCommand>,
    #[command(flatten)]
    pub(crate) model: ModelArg<true>,
    /// Tokens of the prompt
    #[arg(long, default_value_t = 512, value_name = "P")]
    pub(crate) prompt_tokens: usize,
    /// Tokens decoded one at a time
    #[arg(long, default_value_t = 128, value_name = "G")]
    pub(crate) gen_tokens: usize,
    /// Tokens that lie in the cache before the decoded ones
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) depth: usize,
    /// Repetitions; medians are reported
    #[arg(long, default_value_t = 5, value_name = "R")]
    pub(crate) reps: usize,
    #[command(flatten)]
    pub(crate) report: JsonArg,
    /// Show the time of each GPU kernel
    #[arg(long)]
    pub(crate) profile: bool,
    #[command(flatten)]
    pub(crate) load: LoadArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Compare ways to read many prompts: padded, one at a time, sorted by length, prepacked
    #[command(
        after_help = "Example:\n  foreword bench prefill smollm2-135m --dataset prompts.jsonl --batch 16 --threads 2"
    )]
    Prefill(PrefillArgs),
    /// Compare ways to guess ahead with plain decoding, category by category
    #[command(
        after_help = "Examples:\n  foreword bench speculate smollm2-135m --dataset prompts.jsonl --limit 26 --threads 2\n  foreword bench speculate big.gguf --draft small.gguf --dataset prompts.jsonl --temperature 0.7 --json"
    )]
    Speculate(SpeculateArgs),
    /// Measure the time to the first word, exactly and by prediction
    #[command(
        after_help = "Example:\n  foreword bench ttft smollm2-135m --prompt-tokens 128,256,512,1024,2048 --threads 2 --json"
    )]
    Ttft(TtftArgs),
    /// Measure how many answers fit their JSON schemas, what that costs, and what forced tokens save
    #[command(after_help = "Example:\n  foreword bench constrain smollm2-135m --schemas schemas --threads 2 --json")]
    Constrain(ConstrainArgs),
    /// Show every part of the way to the first word, for a file that the system has to read and for one that it has read
    #[command(after_help = "Example:\n  foreword bench start smollm2-135m --threads 2 --json")]
    Start(StartArgs),
}

#[derive(Debug, Args)]
pub(crate) struct TtftArgs {
    #[command(flatten)]
    pub(crate) model: ModelArg,
    /// Lengths of prompts, by commas
    #[arg(long, value_delimiter = ',', value_name = "LIST", default_value = "128,256,512,1024,2048")]
    pub(crate) prompt_tokens: Vec<usize>,
    /// Repetitions; medians are reported
    #[arg(long, default_value_t = 3, value_name = "R")]
    pub(crate) reps: usize,
    /// What predicts: the model's sidecar; by default the one beside the model, or in models/
    #[arg(long, value_name = "FILE")]
    pub(crate) sidecar: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) report: JsonArg,
    #[command(flatten)]
    pub(crate) load: LoadArgs,
}

#[derive(Debug, Args)]
pub(crate) struct SpeculateArgs {
    #[command(flatten)]
    pub(crate) model: ModelArg,
    /// Prompts as JSON lines: objects with prompt, question, text or turns, and a category
    #[arg(long, value_name = "F")]
    pub(crate) dataset: PathBuf,
    /// Most prompts, taken from all categories alike
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<usize>,
    /// What guesses: ngram (the text itself), layers:K (the model's first layers), sidecar (its draft block), or a MODEL
    /// with the same vocabulary
    #[arg(long, default_value = "ngram", value_name = "D")]
    pub(crate) draft: OsString,
    /// Only these methods, by commas
    #[arg(long, value_delimiter = ',', value_name = "LIST", default_value = "auto,rsd-s,rsd-c,independent,chain")]
    pub(crate) methods: Vec<String>,
    /// Only these budgets, by commas
    #[arg(long, value_delimiter = ',', value_name = "LIST", default_value = "6,10,14,21,30")]
    pub(crate) budgets: Vec<usize>,
    /// Only these depths, by commas
    #[arg(long, value_delimiter = ',', value_name = "LIST", default_value = "2,3,4,5", num_args = 0..)]
    pub(crate) depths: Vec<usize>,
    /// 0 always takes the most probable token
    #[arg(long, default_value_t = 0.0, value_name = "T")]
    pub(crate) temperature: f32,
    /// Most tokens of an answer
    #[arg(long, default_value_t = 64, value_name = "N")]
    pub(crate) max_tokens: usize,
    #[command(flatten)]
    pub(crate) report: JsonArg,
    #[command(flatten)]
    pub(crate) load: LoadArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum EvalCommand {
    /// Compare KV prediction with exact reading and with pruning: likelihood and next-token agreement behind a context,
    /// accuracy on multiple-choice questions
    #[command(
        after_help = "Example:\n  foreword eval kv-prediction smollm2-135m --file wiki.txt --trivia trivia.jsonl --threads 2 --json"
    )]
    KvPrediction(KvPredictionArgs),
    /// Count the functions of HumanEval that the model writes so that their tests pass
    #[command(
        after_help = "Runs programs that the model writes, with limits of time and memory but without a sandbox.\n\nExample:\n  foreword eval code model.gguf --dataset humaneval.jsonl --json"
    )]
    Code(CodeArgs),
}

#[derive(Debug, Args)]
pub(crate) struct CodeArgs {
    #[command(flatten)]
    pub(crate) model: ModelArg,
    /// Tasks as JSON lines: task_id, prompt, entry_point, test
    #[arg(long, value_name = "F")]
    pub(crate) dataset: PathBuf,
    /// Most tasks
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<usize>,
    /// Most tokens of a function
    #[arg(long, default_value_t = 384, value_name = "N")]
    pub(crate) max_tokens: usize,
    /// Write each function also against its task without examples: prob or logit, as in `foreword run --contrast-mode`
    #[arg(long, value_name = "MODE", value_parser = contrast_mode)]
    pub(crate) contrast: Option<ContrastMode>,
    /// What runs the programs
    #[arg(long, default_value = "python3", value_name = "COMMAND")]
    pub(crate) python: String,
    #[command(flatten)]
    pub(crate) report: JsonArg,
    #[command(flatten)]
    pub(crate) load: LoadArgs,
}

#[derive(Debug, Args)]
pub(crate) struct KvPredictionArgs {
    #[command(flatten)]
    pub(crate) model: ModelArg,
    /// Text file
    #[arg(long, value_name = "F")]
    pub(crate) file: Option<PathBuf>,
    /// Share of the text that is left out at its beginning, because the sidecar was fitted to it
    #[arg(long, default_value_t = 0.0, value_name = "X")]
    pub(crate) skip: f64,
    /// Windows of the text
    #[arg(long, default_value_t = 24, value_name = "N")]
    pub(crate) chunks: usize,
    /// Tokens of a window's context
    #[arg(long, default_value_t = 448, value_name = "TOKENS")]
    pub(crate) context_tokens: usize,
    /// Tokens behind it that are scored
    #[arg(long, default_value_t = 64, value_name = "TOKENS")]
    pub(crate) scored: usize,
    /// Questions as JSON lines: question, choices, answer
    #[arg(long, value_name = "F")]
    pub(crate) trivia: Option<PathBuf>,
    /// Questions that are asked
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub(crate) questions: usize,
    /// What predicts (several times); by default the sidecar beside the model, or in models/
    #[arg(long, value_name = "FILE")]
    pub(crate) sidecar: Vec<PathBuf>,
    /// An auxiliary model with maps of its cache (several times), as in the paper; train/auxiliary.py makes them
    #[arg(long, value_name = "FILE")]
    pub(crate) auxiliary: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) report: JsonArg,
    #[command(flatten)]
    pub(crate) load: LoadArgs,
}

#[derive(Debug, Args)]
pub(crate) struct PrefillArgs {
    #[command(flatten)]
    pub(crate) model: ModelArg,
    /// Prompts as JSON lines: strings, or objects with prompt, question, text or turns
    #[arg(long, value_name = "F")]
    pub(crate) dataset: PathBuf,
    /// Prompts that come at once
    #[arg(long, default_value_t = 8, value_name = "N")]
    pub(crate) batch: usize,
    /// Most batches, drawn at random from the file, the same ones every time
    #[arg(long, default_value_t = 4, value_name = "B")]
    pub(crate) batches: usize,
    /// Leave longer prompts out
    #[arg(long, value_name = "TOKENS")]
    pub(crate) longest: Option<usize>,
    #[command(flatten)]
    pub(crate) report: JsonArg,
    #[command(flatten)]
    pub(crate) load: LoadArgs,
}

#[derive(Debug, Args)]
pub(crate) struct PerplexityArgs {
    #[command(flatten)]
    pub(crate) model: ModelArg,
    /// Text file
    #[arg(long, value_name = "F")]
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) windows: WindowArgs,
    #[command(flatten)]
    pub(crate) report: JsonArg,
    /// Threads; by default one a core
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<usize>,
    /// Number format of the KV cache
    #[arg(long, value_enum, default_value_t = CacheArg::F32, value_name = "TYPE")]
    pub(crate) cache_type: CacheArg,
    /// Keep the log-probabilities in a new file, in llama.cpp's form: two bytes for every token of the vocabulary and of the text
    #[arg(long, value_name = "FILE")]
    pub(crate) save_logits: Option<PathBuf>,
    /// Compare with the log-probabilities of such a file
    #[arg(long, value_name = "FILE")]
    pub(crate) against: Option<PathBuf>,
    /// Where the model runs: cpu, wgpu, cuda, or auto for a GPU if there is one
    #[arg(long, default_value = "cpu", value_name = "NAME")]
    pub(crate) backend: Choice,
}
