//! What was typed.

mod files;
mod measure;

pub(crate) use files::*;
pub(crate) use measure::*;

use crate::contrast::ContrastArgs;
use crate::form::FormArgs;
use crate::serve::ServeArgs;
use clap::{Args, Parser, Subcommand, ValueEnum};
use foreword::backend::{CacheType, Choice};
use foreword::engine::Overflow;
use foreword::predict::Prefill;
use serde::{Serialize, Serializer};
use std::ffi::{OsStr, OsString};
use std::fmt::{Display, Formatter};
use std::ops::Deref;
use std::path::PathBuf;

/// Language models on your own machine, obsessed with the time to the first word.
#[derive(Debug, Parser)]
#[command(name = "foreword", version, arg_required_else_help = true)]
#[command(
    after_help = "A MODEL is a path, a name that `foreword models` lists, an address, or hf:owner/repo/file.gguf."
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
    /// List the models that are known by name, and whether they fit this machine
    #[command(after_help = "Examples:\n  foreword models\n  foreword models --json")]
    Models(ModelsArgs),
    /// Answer one prompt
    #[command(
        after_help = "Examples:\n  foreword run smollm2-135m \"Why is the sky blue?\"\n  foreword run gemma3-270m --raw \"The capital of France is\" --max-tokens 20\n  foreword run smollm2-135m \"Name a fruit.\" --temperature 0 --logprobs 5 --json\n  foreword run smollm2-135m \"A person as JSON.\" --json-schema person.json"
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
    /// Answer over HTTP, at the addresses of OpenAI's and Anthropic's APIs
    #[command(
        after_help = "Examples:\n  foreword serve\n  foreword serve smollm2-135m minilm.gguf --port 8080 --idle 600\n  foreword serve model.gguf --host 0.0.0.0 --api-key SECRET --cors https://example.org\n\n  curl http://127.0.0.1:8080/v1/chat/completions -d '{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}]}'"
    )]
    Serve(ServeArgs),
    /// Make vectors of the lines of a file, for search and comparison
    #[command(
        after_help = "Examples:\n  foreword embed minilm.gguf --file lines.txt --json\n  foreword embed model.gguf --dimensions 256 < lines.txt"
    )]
    Embed(EmbedArgs),
    /// Measure prefill and decode speed
    #[command(
        after_help = "Examples:\n  foreword bench smollm2-135m --threads 2\n  foreword bench model.gguf --prompt-tokens 512 --gen-tokens 128 --reps 5 --json\n  foreword bench prefill smollm2-135m --dataset prompts.jsonl"
    )]
    Bench(BenchArgs),
    /// Measure the perplexity of a text, by llama.cpp's chunking
    #[command(
        after_help = "Examples:\n  foreword perplexity smollm2-135m --file wiki.txt --context 512 --chunks 40\n  foreword perplexity smollm2-135m --file wiki.txt --save-logits exact.logits\n  foreword perplexity smollm2-135m --file wiki.txt --cache-type q8_0 --against exact.logits"
    )]
    Perplexity(PerplexityArgs),
    /// Measure how good answers are
    #[command(subcommand)]
    Eval(EvalCommand),
    /// Write a checkpoint of Hugging Face's as a GGUF file
    #[command(
        after_help = "Examples:\n  foreword convert ./my-tune -o my-tune.gguf\n  foreword convert hf:owner/repo -o model.gguf --type bf16\n  foreword quantize my-tune.gguf my-tune-q4.gguf --type q4_0"
    )]
    Convert(ConvertArgs),
    /// Find out which columns of a model's matrices matter, for `quantize --imatrix`
    #[command(
        after_help = "Example:\n  foreword imatrix model-f16.gguf --file text.txt -o model.imatrix.gguf\n  foreword quantize model-f16.gguf model-q4.gguf --type q4_k --imatrix model.imatrix.gguf"
    )]
    Imatrix(ImatrixArgs),
    /// Write a model with smaller numbers
    #[command(
        after_help = "Examples:\n  foreword quantize model-f16.gguf model-q4.gguf --type q4_0\n  foreword quantize smollm2-135m small.gguf --type q4_0 --method gptq --file text.txt\n\nHow much is lost:\n  foreword perplexity model-f16.gguf --file text.txt --save-logits exact.logits\n  foreword perplexity model-q4.gguf --file text.txt --against exact.logits"
    )]
    Quantize(QuantizeArgs),
    /// Show the tokens of a text
    #[command(
        after_help = "Examples:\n  foreword tokenize smollm2-135m --text \"Hello, world!\"\n  foreword tokenize smollm2-135m --parse-special --json < prompt.txt"
    )]
    Tokenize(TokenizeArgs),
    /// Show what is in a model file
    #[command(after_help = "Examples:\n  foreword inspect smollm2-135m\n  foreword inspect model.gguf --tensors")]
    Inspect(InspectArgs),
    /// Write man pages and completions for shells into a folder
    #[command(hide = true)]
    PackageDocs(PackageDocsArgs),
}

#[derive(Debug, Args)]
pub(crate) struct PullArgs {
    /// Name, address or hf:owner/repo/file.gguf
    #[arg(default_value = DEFAULT_MODEL)]
    pub(crate) model: OsString,
}

#[derive(Debug, Args)]
pub(crate) struct ModelsArgs {
    #[command(flatten)]
    pub(crate) report: JsonArg,
}

/// What is taken where no model is named.
pub(crate) const DEFAULT_MODEL: &str = "smollm2-135m";

/// The model that a command works with; a path need not be UTF-8.
#[derive(Clone, Debug, Args)]
pub(crate) struct ModelArg<const OPTIONAL: bool = false> {
    /// Path, name, address or hf:owner/repo/file.gguf
    #[arg(id = "model", value_name = "MODEL", default_value = OPTIONAL.then_some(DEFAULT_MODEL), required = !OPTIONAL)]
    name: OsString,
}

impl<const OPTIONAL: bool> Deref for ModelArg<OPTIONAL> {
    type Target = OsStr;

    fn deref(&self) -> &OsStr {
        &self.name
    }
}

/// For people and for reports.
impl<const OPTIONAL: bool> Display for ModelArg<OPTIONAL> {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        self.name.display().fmt(f)
    }
}

impl<const OPTIONAL: bool> Serialize for ModelArg<OPTIONAL> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Whether programs read the results.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct JsonArg {
    /// One JSON object on standard output
    #[arg(long)]
    pub(crate) json: bool,
}

/// How much of a text is read.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct WindowArgs {
    /// Most windows of the text
    #[arg(long, default_value_t = 40, value_name = "N")]
    pub(crate) chunks: usize,
    /// Tokens of a window
    #[arg(long, default_value_t = 512, value_name = "TOKENS")]
    pub(crate) context: usize,
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
    /// Most bytes of KV cache; what is kept of earlier texts gives way, then prompts have to be shorter
    #[arg(long, value_name = "BYTES")]
    pub(crate) kv_memory: Option<usize>,
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

/// How tokens are chosen, and when an answer ends: fields of a request, by their names in it.
#[derive(Clone, Debug, Args, Serialize)]
pub(crate) struct SampleArgs {
    /// 0 always takes the most probable token; by default what the file or `foreword models` advises, else 0.3
    #[arg(long, value_name = "T", allow_negative_numbers = true, value_parser = number)]
    pub(crate) temperature: Option<f32>,
    /// Keep the K most probable tokens, 0 for all; by default as advised, else 40
    #[arg(long, value_name = "K")]
    pub(crate) top_k: Option<usize>,
    /// Keep the most probable tokens that make up this mass; by default as advised, else 0.9
    #[arg(long, value_name = "P", allow_negative_numbers = true, value_parser = number)]
    pub(crate) top_p: Option<f32>,
    /// Keep tokens at least this probable relative to the best
    #[arg(long, value_name = "P", allow_negative_numbers = true, value_parser = number)]
    pub(crate) min_p: Option<f32>,
    /// Keep the tokens closest to the expected information
    #[arg(long, value_name = "P", allow_negative_numbers = true, value_parser = number)]
    pub(crate) typical_p: Option<f32>,
    /// Keep tokens at most N standard deviations of all logits below the best
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = number)]
    pub(crate) top_n_sigma: Option<f32>,
    /// Divide the logits of recent tokens
    #[arg(long, value_name = "X", allow_negative_numbers = true, value_parser = number)]
    pub(crate) repetition_penalty: Option<f32>,
    /// Subtract from the logits of recent tokens
    #[arg(long, value_name = "X", allow_negative_numbers = true, value_parser = number)]
    pub(crate) presence_penalty: Option<f32>,
    /// Subtract for each occurrence among recent tokens
    #[arg(long, value_name = "X", allow_negative_numbers = true, value_parser = number)]
    pub(crate) frequency_penalty: Option<f32>,
    /// Subtract from tokens that would lengthen a repetition (DRY), 0 for off; by default 0.8 for small models
    #[arg(long, value_name = "X", allow_negative_numbers = true, value_parser = number)]
    pub(crate) dry_multiplier: Option<f32>,
    /// So many times as much for each token that the repetition is longer
    #[arg(long, value_name = "X", allow_negative_numbers = true, value_parser = number)]
    pub(crate) dry_base: Option<f32>,
    /// Tokens of a repetition that are free
    #[arg(long, value_name = "N")]
    pub(crate) dry_allowed_length: Option<usize>,
    /// How many tokens DRY looks back, -1 for all
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) dry_penalty_last_n: Option<i64>,
    /// A text that ends a repetition (several times)
    #[arg(long, value_name = "TEXT")]
    pub(crate) dry_sequence_breakers: Option<Vec<String>>,
    /// How often the most probable tokens are left out (XTC)
    #[arg(long, value_name = "P", allow_negative_numbers = true, value_parser = number)]
    pub(crate) xtc_probability: Option<f32>,
    /// Those at least this probable, but for the least probable of them
    #[arg(long, value_name = "P", allow_negative_numbers = true, value_parser = number)]
    pub(crate) xtc_threshold: Option<f32>,
    /// Let the temperature follow the entropy, so far up and down
    #[arg(long, value_name = "T", allow_negative_numbers = true, value_parser = number)]
    pub(crate) dynatemp_range: Option<f32>,
    /// Power of the entropy's share
    #[arg(long, value_name = "X", allow_negative_numbers = true, value_parser = number)]
    pub(crate) dynatemp_exponent: Option<f32>,
    /// 2 for Mirostat 2 instead of all that cuts tokens off
    #[arg(long, value_name = "VERSION")]
    pub(crate) mirostat: Option<usize>,
    /// The surprise that Mirostat keeps to, in bits
    #[arg(long, value_name = "BITS", allow_negative_numbers = true, value_parser = number)]
    pub(crate) mirostat_tau: Option<f32>,
    /// How fast it does
    #[arg(long, value_name = "X", allow_negative_numbers = true, value_parser = number)]
    pub(crate) mirostat_eta: Option<f32>,
    /// Add to a token's logit: ID=BIAS (several times)
    #[arg(long, value_name = "ID=BIAS", value_parser = parse_bias, allow_negative_numbers = true)]
    // JSON has no infinities.
    #[serde(skip)]
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
    /// End an answer that goes in circles: true or false; by default true in chats and where the answer has a form
    #[arg(long, value_name = "BOOL")]
    pub(crate) stop_at_repetition: Option<bool>,
}

/// A number that JSON can say.
fn number(text: &str) -> Result<f32, String> {
    let number: f32 = text.parse().map_err(|e| format!("{e}"))?;
    if number.is_finite() { Ok(number) } else { Err("must be a finite number".into()) }
}

fn parse_bias(text: &str) -> Result<(u32, f32), String> {
    let (id, bias) = text.split_once('=').ok_or("write ID=BIAS, such as 42=-1.5")?;
    Ok((id.parse().map_err(|e| format!("{id}: {e}"))?, bias.parse().map_err(|e| format!("{bias}: {e}"))?))
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) model: ModelArg,
    /// The prompt; - reads it from standard input
    pub(crate) prompt: String,
    /// Complete the prompt as it is, without the chat template
    #[arg(long)]
    pub(crate) raw: bool,
    /// System message
    #[arg(long, value_name = "TEXT", conflicts_with = "raw")]
    pub(crate) system: Option<String>,
    /// Go on with the chat of this file, and keep it there with the answer; the model reads nothing again
    #[arg(long, value_name = "FILE", conflicts_with = "raw")]
    pub(crate) session: Option<PathBuf>,
    /// Report log-probabilities of each token and the K most probable ones (with --json)
    #[arg(long, value_name = "K", requires = "json")]
    pub(crate) logprobs: Option<usize>,
    #[command(flatten)]
    pub(crate) report: JsonArg,
    #[command(flatten)]
    pub(crate) form: FormArgs,
    #[command(flatten)]
    pub(crate) contrast: ContrastArgs,
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
    #[command(flatten)]
    pub(crate) model: ModelArg<true>,
    /// System message
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,
    /// Keep the chat in this file, and go on with it from there; the model reads nothing again
    #[arg(long, value_name = "FILE")]
    pub(crate) session: Option<PathBuf>,
    /// What becomes of a chat that outgrows the context: shift (its oldest turns are left out) or error
    #[arg(long, default_value = "shift", value_name = "HOW")]
    pub(crate) overflow: Overflow,
    /// Play the chat of this file instead, JSON lines: {"say": TEXT}, {"edit": N, "say": TEXT},
    /// {"regenerate": true}, {"branch": N} (turns count from 1); - is standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) script: Option<PathBuf>,
    /// Print each answer of the script as a JSON line with its usage
    #[arg(long, requires = "script")]
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
pub(crate) struct BatchArgs {
    #[command(flatten)]
    pub(crate) model: ModelArg,
    /// Requests as JSON lines
    pub(crate) prompts: PathBuf,
    /// Where answers are appended to; - is standard output
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// Tokens that the KV cache holds over all requests; by default one context
    #[arg(long, value_name = "TOKENS")]
    pub(crate) cache_tokens: Option<usize>,
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
    pub(crate) draft: OsString,
}

#[derive(Debug, Args)]
pub(crate) struct EmbedArgs {
    #[command(flatten)]
    pub(crate) model: ModelArg,
    /// A text a line; - or nothing reads standard input
    #[arg(long, default_value = "-", value_name = "PATH")]
    pub(crate) file: PathBuf,
    /// Cut vectors to so many values, for models that were trained for it
    #[arg(long, value_name = "N")]
    pub(crate) dimensions: Option<usize>,
    /// Read each line by itself, to see what reading them side by side is worth
    #[arg(long)]
    pub(crate) one_by_one: bool,
    #[command(flatten)]
    pub(crate) load: LoadArgs,
    #[command(flatten)]
    pub(crate) report: JsonArg,
}

#[derive(Debug, Args)]
pub(crate) struct TokenizeArgs {
    #[command(flatten)]
    pub(crate) model: ModelArg,
    /// Text; - or nothing reads standard input
    #[arg(long, default_value = "-", allow_hyphen_values = true)]
    pub(crate) text: String,
    /// Recognise control tokens such as <|im_end|>
    #[arg(long)]
    pub(crate) parse_special: bool,
    #[command(flatten)]
    pub(crate) report: JsonArg,
}

#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    #[command(flatten)]
    pub(crate) model: ModelArg,
    /// List every tensor
    #[arg(long)]
    pub(crate) tensors: bool,
    #[command(flatten)]
    pub(crate) report: JsonArg,
}

#[derive(Debug, Args)]
pub(crate) struct PackageDocsArgs {
    /// Is made where it is missing
    pub(crate) folder: PathBuf,
}
