//! What was typed.

use clap::{Args, Parser, Subcommand, ValueEnum};
use foreword::backend::{CacheType, Choice};
use foreword::predict::Prefill;
use std::path::PathBuf;

/// Language models on your own machine, obsessed with the time to the first word.
#[derive(Debug, Parser)]
#[command(name = "foreword", version, arg_required_else_help = true)]
#[command(
    after_help = "A MODEL is a path, a name (smollm2-135m, gemma3-270m), an address, or hf:owner/repo/file.gguf."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Download a model into the cache folder and print its path
    #[command(
        after_help = "Examples:\n  foreword pull\n  foreword pull gemma3-270m\n  foreword pull hf:owner/repo/model.gguf"
    )]
    Pull(PullArgs),
    /// Answer one prompt
    #[command(
        after_help = "Examples:\n  foreword run smollm2-135m \"Why is the sky blue?\"\n  foreword run gemma3-270m --raw \"The capital of France is\" --max-tokens 20\n  foreword run smollm2-135m \"Name a fruit.\" --temperature 0 --logprobs 5 --json"
    )]
    Run(RunArgs),
    /// Chat in the terminal; Ctrl-C stops an answer, Ctrl-D ends the chat
    #[command(after_help = "Examples:\n  foreword chat\n  foreword chat smollm2-135m --system \"Be brief.\"")]
    Chat(ChatArgs),
    /// Answer a file of requests, in the lines of OpenAI's batch API; a run that was stopped goes on
    #[command(
        after_help = "Example:\n  foreword batch smollm2-135m prompts.jsonl -o answers.jsonl\n\nLines of PROMPTS:\n  {\"custom_id\": \"a\", \"method\": \"POST\", \"url\": \"/v1/chat/completions\",\n   \"body\": {\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}], \"max_tokens\": 50}}"
    )]
    Batch(BatchArgs),
    /// Measure prefill and decode speed
    #[command(
        after_help = "Examples:\n  foreword bench smollm2-135m --threads 2\n  foreword bench model.gguf --prompt-tokens 512 --gen-tokens 128 --reps 5 --json\n  foreword bench prefill smollm2-135m --dataset prompts.jsonl"
    )]
    Bench(BenchArgs),
    /// Measure the perplexity of a text, by llama.cpp's chunking
    #[command(after_help = "Example:\n  foreword perplexity smollm2-135m --file wiki.txt --context 512 --chunks 40")]
    Perplexity(PerplexityArgs),
    /// Measure how good answers are that begin early
    #[command(subcommand)]
    Eval(EvalCommand),
    /// Show the tokens of a text
    #[command(
        after_help = "Examples:\n  foreword tokenize smollm2-135m --text \"Hello, world!\"\n  foreword tokenize smollm2-135m --parse-special --json < prompt.txt"
    )]
    Tokenize(TokenizeArgs),
    /// Show what is in a model file
    #[command(after_help = "Examples:\n  foreword inspect smollm2-135m\n  foreword inspect model.gguf --tensors")]
    Inspect(InspectArgs),
}

#[derive(Debug, Args)]
pub(crate) struct PullArgs {
    /// Name, address or hf:owner/repo/file.gguf
    #[arg(default_value = "smollm2-135m")]
    pub(crate) model: String,
}

/// How a model is loaded.
#[derive(Clone, Debug, Args)]
pub(crate) struct LoadArgs {
    /// Threads; by default one a core
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<usize>,
    /// Longest prompt and answer, in tokens
    #[arg(long, value_name = "TOKENS")]
    pub(crate) context: Option<usize>,
    /// Number format of the KV cache
    #[arg(long, value_enum, default_value_t = CacheArg::F16, value_name = "TYPE")]
    pub(crate) cache_type: CacheArg,
    /// Where the model runs: cpu, wgpu, cuda, or auto for a GPU if there is one
    #[arg(long, default_value = "cpu", value_name = "NAME")]
    pub(crate) backend: Choice,
    /// Have the time of each kernel measured.
    #[arg(skip)]
    pub(crate) profile: bool,
    /// Tokens that the KV cache holds over all sequences; by default one context.
    #[arg(skip)]
    pub(crate) cache_tokens: Option<usize>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum CacheArg {
    F32,
    F16,
    #[value(name = "q8_0")]
    Q8,
}

impl From<CacheArg> for CacheType {
    fn from(arg: CacheArg) -> CacheType {
        match arg {
            CacheArg::F32 => CacheType::F32,
            CacheArg::F16 => CacheType::F16,
            CacheArg::Q8 => CacheType::Q8_0,
        }
    }
}

/// How tokens are chosen.
#[derive(Clone, Debug, Args)]
pub(crate) struct SampleArgs {
    /// 0 always takes the most probable token
    #[arg(long, default_value_t = 0.3, value_name = "T", allow_negative_numbers = true)]
    pub(crate) temperature: f32,
    /// Keep the K most probable tokens; 0 for all
    #[arg(long, default_value_t = 40, value_name = "K")]
    pub(crate) top_k: usize,
    /// Keep the most probable tokens that make up this mass
    #[arg(long, default_value_t = 0.9, value_name = "P", allow_negative_numbers = true)]
    pub(crate) top_p: f32,
    /// Keep tokens at least this probable relative to the best
    #[arg(long, default_value_t = 0.0, value_name = "P")]
    pub(crate) min_p: f32,
    /// Keep the tokens closest to the expected information
    #[arg(long, default_value_t = 1.0, value_name = "P")]
    pub(crate) typical_p: f32,
    /// Divide the logits of recent tokens
    #[arg(long, default_value_t = 1.0, value_name = "X")]
    pub(crate) repetition_penalty: f32,
    /// Subtract from the logits of recent tokens
    #[arg(long, default_value_t = 0.0, value_name = "X", allow_negative_numbers = true)]
    pub(crate) presence_penalty: f32,
    /// Subtract for each occurrence among recent tokens
    #[arg(long, default_value_t = 0.0, value_name = "X", allow_negative_numbers = true)]
    pub(crate) frequency_penalty: f32,
    /// Add to a token's logit: ID=BIAS (several times)
    #[arg(long, value_name = "ID=BIAS", value_parser = parse_bias, allow_negative_numbers = true)]
    pub(crate) logit_bias: Vec<(u32, f32)>,
    /// Make the choices repeatable
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// Most tokens of an answer
    #[arg(long, value_name = "N")]
    pub(crate) max_tokens: Option<usize>,
    /// End the answer at this text (several times)
    #[arg(long, value_name = "TEXT")]
    pub(crate) stop: Vec<String>,
}

fn parse_bias(text: &str) -> Result<(u32, f32), String> {
    let (id, bias) = text.split_once('=').ok_or("write ID=BIAS, such as 42=-1.5")?;
    Ok((id.parse().map_err(|e| format!("{id}: {e}"))?, bias.parse().map_err(|e| format!("{bias}: {e}"))?))
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Path, name, address or hf:owner/repo/file.gguf
    pub(crate) model: String,
    /// The prompt; - reads it from standard input
    pub(crate) prompt: String,
    /// Complete the prompt as it is, without the chat template
    #[arg(long)]
    pub(crate) raw: bool,
    /// System message
    #[arg(long, value_name = "TEXT", conflicts_with = "raw")]
    pub(crate) system: Option<String>,
    /// Report log-probabilities of each token and the K most probable ones (with --json)
    #[arg(long, value_name = "K", requires = "json")]
    pub(crate) logprobs: Option<usize>,
    /// One JSON object on standard output
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) sample: SampleArgs,
    #[command(flatten)]
    pub(crate) guess: GuessArgs,
    #[command(flatten)]
    pub(crate) early: PrefillModeArgs,
    #[command(flatten)]
    pub(crate) load: LoadArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ChatArgs {
    /// Path, name, address or hf:owner/repo/file.gguf
    #[arg(default_value = "smollm2-135m")]
    pub(crate) model: String,
    /// System message
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,
    #[command(flatten)]
    pub(crate) sample: SampleArgs,
    #[command(flatten)]
    pub(crate) guess: GuessArgs,
    #[command(flatten)]
    pub(crate) early: PrefillModeArgs,
    #[command(flatten)]
    pub(crate) load: LoadArgs,
}

#[derive(Debug, Args)]
pub(crate) struct BatchArgs {
    /// Path, name, address or hf:owner/repo/file.gguf
    pub(crate) model: String,
    /// Requests as JSON lines
    pub(crate) prompts: PathBuf,
    /// Where answers are appended to
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// Tokens that the KV cache holds over all requests; by default one context
    #[arg(long, value_name = "TOKENS")]
    pub(crate) cache_tokens: Option<usize>,
    #[command(flatten)]
    pub(crate) load: LoadArgs,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    pub(crate) command: Option<BenchCommand>,
    /// Path, name, address or hf:owner/repo/file.gguf
    #[arg(default_value = "smollm2-135m")]
    pub(crate) model: String,
    /// Tokens of the prompt
    #[arg(long, default_value_t = 512, value_name = "P")]
    pub(crate) prompt_tokens: usize,
    /// Tokens decoded one at a time
    #[arg(long, default_value_t = 128, value_name = "G")]
    pub(crate) gen_tokens: usize,
    /// Repetitions; medians are reported
    #[arg(long, default_value_t = 5, value_name = "R")]
    pub(crate) reps: usize,
    /// One JSON object on standard output
    #[arg(long)]
    pub(crate) json: bool,
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
}

#[derive(Debug, Args)]
pub(crate) struct TtftArgs {
    /// Path, name, address or hf:owner/repo/file.gguf
    pub(crate) model: String,
    /// Lengths of prompts, by commas
    #[arg(long, value_delimiter = ',', value_name = "LIST", default_value = "128,256,512,1024,2048")]
    pub(crate) prompt_tokens: Vec<usize>,
    /// Repetitions; medians are reported
    #[arg(long, default_value_t = 3, value_name = "R")]
    pub(crate) reps: usize,
    /// What predicts: the model's sidecar; by default the one beside the model, or in models/
    #[arg(long, value_name = "FILE")]
    pub(crate) sidecar: Option<PathBuf>,
    /// One JSON object on standard output
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) load: LoadArgs,
}

#[derive(Debug, Args)]
pub(crate) struct SpeculateArgs {
    /// Path, name, address or hf:owner/repo/file.gguf
    pub(crate) model: String,
    /// Prompts as JSON lines: objects with prompt, question, text or turns, and a category
    #[arg(long, value_name = "F")]
    pub(crate) dataset: PathBuf,
    /// Most prompts, taken from all categories alike
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<usize>,
    /// What guesses: ngram (the text itself), layers:K (the model's first layers), sidecar (its draft block), or a MODEL
    /// with the same vocabulary
    #[arg(long, default_value = "ngram", value_name = "D")]
    pub(crate) draft: String,
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
    /// One JSON object on standard output
    #[arg(long)]
    pub(crate) json: bool,
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
}

#[derive(Debug, Args)]
pub(crate) struct KvPredictionArgs {
    /// Path, name, address or hf:owner/repo/file.gguf
    pub(crate) model: String,
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
    /// One JSON object on standard output
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) load: LoadArgs,
}

/// How prompts are read.
#[derive(Clone, Debug, Args)]
pub(crate) struct PrefillModeArgs {
    /// Begin long prompts' answers early, from a predicted cache: exact (not so), fast, progressive (the exact reading goes
    /// on behind the first words), or auto for progressive where it saves much
    #[arg(long, default_value = "exact", value_name = "HOW")]
    pub(crate) prefill: Prefill,
    /// What predicts: the model's sidecar; by default the one beside the model, or in models/
    #[arg(long, value_name = "FILE")]
    pub(crate) sidecar: Option<PathBuf>,
}

/// How answers are guessed ahead.
#[derive(Clone, Debug, Args)]
pub(crate) struct GuessArgs {
    /// Guess the next tokens and check them together, for the same answers sooner: off, auto, or METHOD:BUDGET with rsd-s,
    /// rsd-c, chain or independent
    #[arg(long, default_value = "off", value_name = "HOW")]
    pub(crate) speculate: String,
    /// What guesses: ngram (the text itself), layers:K (the model's first layers), sidecar (its draft block), or a MODEL
    /// with the same vocabulary
    #[arg(long, default_value = "ngram", value_name = "D")]
    pub(crate) draft: String,
}

#[derive(Debug, Args)]
pub(crate) struct PrefillArgs {
    /// Path, name, address or hf:owner/repo/file.gguf
    pub(crate) model: String,
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
    /// One JSON object on standard output
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) load: LoadArgs,
}

#[derive(Debug, Args)]
pub(crate) struct PerplexityArgs {
    /// Path, name, address or hf:owner/repo/file.gguf
    pub(crate) model: String,
    /// Text file
    #[arg(long, value_name = "F")]
    pub(crate) file: PathBuf,
    /// Most windows
    #[arg(long, default_value_t = 40)]
    pub(crate) chunks: usize,
    /// One JSON object on standard output
    #[arg(long)]
    pub(crate) json: bool,
    /// Threads; by default one a core
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<usize>,
    /// Tokens of a window
    #[arg(long, default_value_t = 512, value_name = "TOKENS")]
    pub(crate) context: usize,
    /// Where the model runs: cpu, wgpu, cuda, or auto for a GPU if there is one
    #[arg(long, default_value = "cpu", value_name = "NAME")]
    pub(crate) backend: Choice,
}

#[derive(Debug, Args)]
pub(crate) struct TokenizeArgs {
    /// Path, name, address or hf:owner/repo/file.gguf
    pub(crate) model: String,
    /// Text; - or nothing reads standard input
    #[arg(long, default_value = "-", allow_hyphen_values = true)]
    pub(crate) text: String,
    /// Recognise control tokens such as <|im_end|>
    #[arg(long)]
    pub(crate) parse_special: bool,
    /// One JSON object on standard output
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// Path, name, address or hf:owner/repo/file.gguf
    pub(crate) model: String,
    /// List every tensor
    #[arg(long)]
    pub(crate) tensors: bool,
    /// One JSON object on standard output
    #[arg(long)]
    pub(crate) json: bool,
}
