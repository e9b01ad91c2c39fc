//! Settings that a model's maker gives.

use super::super::Engine;
use super::Body;
use crate::error::Result;
use crate::gguf::Metadata;
use crate::sample::Params;
use serde_json::Value;

/// Models of fewer weights repeat themselves when their makers' settings are near to greedy.
const SMALL: u64 = 1_000_000_000;

/// The settings that requests need not name: those in the model's file (`general.sampling.*`), over them the ones that a registry
/// has of it (`named`, as the fields of a request), `otherwise` where there are none. Small models get DRY beside them, from
/// repetitions on that are longer than what lists, code and quotes repeat.
///
/// # Errors
/// [`crate::Kind::InvalidRequest`] for a field of `named` that is none.
pub fn makers_settings(engine: &Engine, named: Option<&Value>, otherwise: &Params) -> Result<Params> {
    let file = of_file(&engine.gguf().metadata);
    // What a file says and nobody can mean is passed over.
    let file = file.filter(|params| params.check(usize::MAX).is_ok());
    let mut params = match (file, named) {
        (None, None) => otherwise.clone(),
        (Some(file), None) => file,
        (file, Some(named)) => Body::over(named, &file.unwrap_or_default())?.request.params,
    };
    let weights = engine.gguf().tensors.iter().map(|t| t.dims.iter().fold(1u64, |n, &dim| n.saturating_mul(dim)));
    if params.dry_multiplier == 0.0 && weights.fold(0, u64::saturating_add) < SMALL {
        (params.dry_multiplier, params.dry_allowed_length, params.dry_range) = (0.8, 12, 2048);
    }
    Ok(params)
}

/// The settings in a file, if it has any.
fn of_file(metadata: &Metadata) -> Option<Params> {
    let key = |name: &str| format!("general.sampling.{name}");
    let float = |name: &str| metadata.opt_f32(&key(name)).ok().flatten();
    let count = |name: &str| metadata.opt_u32(&key(name)).ok().flatten().map(|n| n as usize);
    let mut params = Params::default();
    let mut any = false;
    for (name, field) in [
        ("temp", &mut params.temperature),
        ("top_p", &mut params.top_p),
        ("min_p", &mut params.min_p),
        ("xtc_probability", &mut params.xtc_probability),
        ("xtc_threshold", &mut params.xtc_threshold),
        ("penalty_repeat", &mut params.repetition_penalty),
        ("mirostat_tau", &mut params.mirostat_tau),
        ("mirostat_eta", &mut params.mirostat_eta),
    ] {
        if let Some(value) = float(name) {
            (*field, any) = (value, true);
        }
    }
    for (name, field) in [("top_k", &mut params.top_k), ("penalty_last_n", &mut params.penalty_window)] {
        if let Some(value) = count(name) {
            (*field, any) = (value, true);
        }
    }
    params.mirostat = count("mirostat") == Some(2);
    (any || params.mirostat).then_some(params)
}
