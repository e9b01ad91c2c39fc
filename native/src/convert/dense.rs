//! Matrices behind the pooling of sentence-transformers (EmbeddingGemma): in folders of their own, which `modules.json` names.

use super::checkpoint::Checkpoint;
use super::json::{self, Object};
use super::model::Model;
use super::tensors::Planned;
use foreword::gguf::Value;
use foreword::quant::TensorType;
use foreword::{Error, Result};

#[derive(Default)]
pub(super) struct Dense {
    pub(super) tensors: Vec<Planned>,
    pub(super) pairs: Vec<(String, Value)>,
}

/// Finds them; their files join those of the checkpoint.
pub(super) fn add(model: &Model, checkpoint: &mut Checkpoint, ty: TensorType) -> Result<Dense> {
    let mut dense = Dense::default();
    if model.family.name != "gemma-embedding" {
        return Ok(dense);
    }
    let modules: Option<Vec<serde_json::Value>> = json::read(&checkpoint.folder, "modules.json")?;
    let is_dense = |m: &&serde_json::Value| m["type"].as_str().is_some_and(|ty| ty.ends_with("Dense"));
    for module in modules.iter().flatten().filter(is_dense) {
        let name = match module["path"].as_str() {
            Some("2_Dense") => "dense_2",
            Some("3_Dense") => "dense_3",
            other => {
                return Err(Error::unsupported(format!(
                    "modules.json: a layer in {other:?}; those in 2_Dense and 3_Dense are converted"
                )));
            }
        };
        let path = module["path"].as_str().unwrap_or_default();
        let config = Object::require(&checkpoint.folder, &format!("{path}/config.json"))?;
        let size = |key: &str| config.count(&[key])?.ok_or_else(|| config.wrong(&format!("{key} is missing")));
        let (cols, rows) = (size("in_features")?, size("out_features")?);
        let first = checkpoint.tensors.len();
        checkpoint.add(&checkpoint.folder.join(path).join("model.safetensors"))?;
        let found = checkpoint.tensors.split_off(first);
        match &found[..] {
            [weight] if weight.name == "linear.weight" && weight.shape == [rows, cols] => {
                dense.tensors.push(Planned::copy(format!("{name}.weight"), weight.clone(), ty)?);
            }
            _ => {
                return Err(Error::bad_file(format!(
                    "{path}/model.safetensors should be one matrix, linear.weight [{rows}, {cols}]"
                )));
            }
        }
        dense.pairs.push((format!("{}.{name}_feat_in", model.family.name), Value::Unsigned(cols)));
        dense.pairs.push((format!("{}.{name}_feat_out", model.family.name), Value::Unsigned(rows)));
    }
    Ok(dense)
}
