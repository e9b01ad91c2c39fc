//! Which type each tensor gets: llama.cpp's rules, without its mixtures.

use foreword::gguf::{Gguf, TensorInfo};
use foreword::quant::TensorType;
use foreword::{Error, Result};
use std::collections::BTreeMap;

/// A tensor of the source and what becomes of it.
pub(super) struct Planned<'a> {
    pub(super) info: &'a TensorInfo,
    pub(super) ty: TensorType,
    /// Bytes in the new type.
    pub(super) n_bytes: u64,
    /// A tensor of scales that is to follow, one for each matrix, and its dimensions: for NVFP4.
    pub(super) scale: Option<(String, [u64; 1])>,
}

impl Planned<'_> {
    /// Whether its weights become codes.
    pub(super) fn is_rounded(&self) -> bool {
        self.ty != self.info.ty && !self.ty.is_float()
    }
}

/// What is to be written.
pub(super) struct Plan<'a> {
    pub(super) tensors: Vec<Planned<'a>>,
    /// llama.cpp's number for files of mostly this type.
    pub(super) file_type: u32,
    /// The type that rows of this length do not fit, the one that they got, and how many tensors that are.
    pub(super) fallbacks: BTreeMap<(&'static str, &'static str, u64), usize>,
}

/// What stays as it is although it has rows: it is small, and much depends on it.
const KEPT: &[&str] = &[
    "_norm.weight",
    "ffn_gate_inp.weight",
    "ffn_gate_inp_shexp.weight",
    "ssm_conv1d.weight",
    "shortconv.conv.weight",
    "position_embd.weight",
    "token_types.weight",
    "cls.output.weight",
];

/// Tables of which rows are taken, not products: they have no factor beside them, without which NVFP4 says little.
const TABLES: &[&str] = &["token_embd.weight", "per_layer_token_embd.weight"];

impl<'a> Plan<'a> {
    pub(super) fn new(gguf: &'a Gguf, ty: TensorType) -> Result<Plan<'a>> {
        let mut plan = Plan { tensors: Vec::new(), file_type: file_type(ty), fallbacks: BTreeMap::new() };
        let tied = gguf.tensor("output.weight").is_none();
        for info in &gguf.tensors {
            let is_matrix = info.dims.iter().filter(|&&d| d > 1).count() > 1 && info.name.ends_with(".weight");
            let (cols, is_kept) = (info.dims[0], KEPT.iter().any(|end| info.name.ends_with(end)));
            let found = if is_matrix && !is_kept {
                let is_head = info.name == "output.weight" || tied && info.name == "token_embd.weight";
                let is_table = TABLES.contains(&&*info.name);
                let wanted = if is_head || is_table && ty == TensorType::NVFP4 { head(ty) } else { ty };
                let found = fitting(wanted, cols);
                if found != wanted {
                    *plan.fallbacks.entry((wanted.name(), found.name(), cols)).or_default() += 1;
                }
                found
            } else {
                info.ty
            };
            let rows: u64 = info.dims[1..].iter().product();
            let row_bytes = found.row_bytes(cols as usize).ok_or_else(|| too_large(info))?;
            let n_bytes = rows.checked_mul(row_bytes as u64).ok_or_else(|| too_large(info))?;
            let scale = format!("{}.scale", info.name.trim_end_matches(".weight"));
            let is_scaled = found == TensorType::NVFP4 && info.ty != found && gguf.tensor(&scale).is_none();
            let scale = is_scaled.then(|| (scale, [info.dims.get(2..).unwrap_or_default().iter().product::<u64>()]));
            plan.tensors.push(Planned { info, ty: found, n_bytes, scale });
        }
        match plan.tensors.iter().any(|t| t.ty != t.info.ty) {
            true => Ok(plan),
            false => {
                Err(Error::invalid_request(format!("there is nothing to do: all tensors are {} already", ty.name())))
            }
        }
    }
}

fn too_large(info: &TensorInfo) -> Error {
    Error::bad_file(format!("tensor {} is absurdly large; the file is damaged", info.name))
}

/// The type of the matrix that makes logits, on which more depends than on others.
fn head(ty: TensorType) -> TensorType {
    match ty {
        TensorType::F32 | TensorType::F16 | TensorType::BF16 | TensorType::Q8_0 => ty,
        _ => TensorType::Q6_K,
    }
}

/// The type itself, or the one that llama.cpp takes where rows are no whole blocks of it.
fn fitting(ty: TensorType, cols: u64) -> TensorType {
    let fits = |ty: TensorType| cols.is_multiple_of(ty.block_len() as u64);
    let other = match ty {
        TensorType::Q2_K | TensorType::Q3_K | TensorType::NVFP4 => TensorType::Q4_0,
        TensorType::IQ4_XS => TensorType::IQ4_NL,
        TensorType::Q4_K => TensorType::Q5_0,
        TensorType::Q5_K => TensorType::Q5_1,
        TensorType::Q6_K => TensorType::Q8_0,
        _ => TensorType::F16,
    };
    [ty, other].into_iter().find(|&ty| fits(ty)).unwrap_or(TensorType::F16)
}

/// llama.cpp's `LLAMA_FTYPE_MOSTLY_*`; of K-quants the plain ones.
fn file_type(ty: TensorType) -> u32 {
    match ty {
        TensorType::F32 => 0,
        TensorType::F16 => 1,
        TensorType::Q4_0 => 2,
        TensorType::Q4_1 => 3,
        TensorType::Q8_0 => 7,
        TensorType::Q5_0 => 8,
        TensorType::Q5_1 => 9,
        TensorType::Q2_K => 10,
        TensorType::Q3_K => 11,
        TensorType::Q4_K => 14,
        TensorType::Q5_K => 16,
        TensorType::Q6_K => 18,
        TensorType::IQ4_NL => 25,
        TensorType::IQ4_XS => 30,
        TensorType::BF16 => 32,
        TensorType::MXFP4 => 38,
        TensorType::NVFP4 => 39,
        // As a guess.
        _ => 1024,
    }
}
