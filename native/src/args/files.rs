//! What was typed behind the commands that write models.

use super::{JsonArg, ModelArg, WindowArgs};
use clap::{Args, ValueEnum};
use foreword::quant::{TensorType, encode};
use std::ffi::OsString;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(crate) struct ConvertArgs {
    /// Folder with config.json, safetensors and tokenizer.json, or hf:owner/repo
    #[arg(value_name = "DIR")]
    pub(crate) model: OsString,
    /// The file to write; one that is there is left alone
    #[arg(short, long = "output", value_name = "OUT")]
    pub(crate) out: PathBuf,
    /// How matrices are written; auto takes what they are in, or f16 where that is f32
    #[arg(long = "type", value_enum, default_value_t = Float::Auto, value_name = "TYPE")]
    pub(crate) ty: Float,
    #[command(flatten)]
    pub(crate) report: JsonArg,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Float {
    Auto,
    F32,
    F16,
    Bf16,
}

#[derive(Debug, Args)]
pub(crate) struct QuantizeArgs {
    #[command(flatten)]
    pub(crate) model: ModelArg,
    /// The file to write; one that is there is left alone
    #[arg(value_name = "OUT")]
    pub(crate) out: PathBuf,
    /// How weights are written, from 32 bits each to 2.6: f32, f16, bf16, q8_0, q6_k, q5_1, q5_0, q5_k, q4_1, q4_0, q4_k, iq4_nl, nvfp4,
    /// iq4_xs, mxfp4, q3_k, q2_k. Rows that are no multiple of 256 weights (_k and _xs) or of 32 get the next larger type that they
    /// fit
    #[arg(long = "type", value_name = "TYPE", value_parser = tensor_type)]
    pub(crate) ty: TensorType,
    /// How codes are chosen: rtn rounds each weight to the nearest; gptq has those to come make up for the errors of those before,
    /// by what the model does with the text of --file: better at four bits and less, and slower
    #[arg(long, value_enum, default_value_t = Method::Rtn, requires_if("gptq", "file"), value_name = "METHOD")]
    pub(crate) method: Method,
    /// How much each column matters, as `foreword imatrix` or llama.cpp found out
    #[arg(long, value_name = "FILE", conflicts_with = "file")]
    pub(crate) imatrix: Option<PathBuf>,
    /// Text that is like what the model will be used for
    #[arg(long, value_name = "F")]
    pub(crate) file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) windows: WindowArgs,
    /// Threads; by default one a core
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<usize>,
    #[command(flatten)]
    pub(crate) report: JsonArg,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Method {
    Rtn,
    Gptq,
}

#[derive(Debug, Args)]
pub(crate) struct ImatrixArgs {
    #[command(flatten)]
    pub(crate) model: ModelArg,
    /// Text that is like what the model will be used for
    #[arg(long, value_name = "F")]
    pub(crate) file: PathBuf,
    /// The file to write; one that is there is left alone
    #[arg(short, long = "output", value_name = "OUT")]
    pub(crate) out: PathBuf,
    #[command(flatten)]
    pub(crate) windows: WindowArgs,
    /// Threads; by default one a core
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<usize>,
}

fn tensor_type(text: &str) -> Result<TensorType, String> {
    let found = encode::TYPES.iter().find(|ty| ty.name().eq_ignore_ascii_case(text));
    found.copied().ok_or_else(|| {
        let names: Vec<String> = encode::TYPES.iter().map(|ty| ty.name().to_lowercase()).collect();
        format!("it should be one of {}", names.join(", "))
    })
}
