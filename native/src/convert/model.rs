//! What `config.json` says: the family, its sizes, and the metadata that follow.

use super::families::{Change, Dim, FAMILIES, Family, KEYS, Key, Kind};
use super::json::Object;
use foreword::gguf::Value;
use foreword::{Error, Result};
use std::path::Path;

/// A model's family and configuration.
pub(super) struct Model {
    pub(super) family: &'static Family,
    pub(super) config: Object,
    pub(super) n_layers: u64,
    sizes: Sizes,
    rope: Rope,
}

struct Sizes {
    width: u64,
    heads: u64,
    kv_heads: u64,
    head_dim: u64,
    ff: u64,
}

/// A rotary embedding.
#[derive(Default)]
struct Rope {
    base: Option<f64>,
    /// Of layers with a window.
    window_base: Option<f64>,
    pairs: Vec<(&'static str, Value)>,
    /// How much slower each pair of dimensions turns, where that is written as a tensor.
    factors: Option<Vec<f32>>,
}

impl Model {
    pub(super) fn open(folder: &Path) -> Result<Model> {
        let mut config = Object::require(folder, "config.json")?;
        let family = family(&config)?;
        // Of models that see, too, the part that reads and writes.
        if let Some(text) = config.object("text_config")? {
            config.overlay(&text);
        }
        for &(name, value) in family.defaults {
            config.set_default(name, value);
        }
        let need = |config: &Object, name: &str| -> Result<u64> {
            let value = config.count(&[name])?.ok_or_else(|| config.wrong(&format!("{name} is missing")))?;
            match value {
                0 => Err(config.wrong(&format!("{name} is 0"))),
                value if value >= 1 << 24 => Err(config.wrong(&format!("{name} is {value}, beyond any real model"))),
                value => Ok(value),
            }
        };
        let (width, heads) = (need(&config, "hidden_size")?, need(&config, "num_attention_heads")?);
        let kv_heads = match config.get(&["num_key_value_heads"]) {
            Some(_) => need(&config, "num_key_value_heads")?,
            None => heads,
        };
        let head_dim = match config.get(&["head_dim"]) {
            Some(_) => need(&config, "head_dim")?,
            None if width % heads == 0 => width / heads,
            None => return Err(config.wrong(&format!("{width} dimensions by {heads} heads leaves a rest"))),
        };
        if family.derives_heads {
            config.set_default("num_key_value_heads", kv_heads);
            config.set_default("head_dim", head_dim);
        }
        if family.layers.iter().any(|row| row.change == Change::Interleave) && head_dim % 2 == 1 {
            return Err(config.wrong(&format!("heads of {head_dim} dimensions cannot be turned pair by pair")));
        }
        let ff = feed_forward(&config, need(&config, "intermediate_size")?)?;
        for name in ["vocab_size", "max_position_embeddings"] {
            need(&config, name)?;
        }
        let n_layers = need(&config, "num_hidden_layers")?;
        let rope = Rope::new(family, &config, head_dim)?;
        Ok(Model { family, config, n_layers, sizes: Sizes { width, heads, kv_heads, head_dim, ff }, rope })
    }

    /// A size of tensors.
    pub(super) fn dim(&self, dim: Dim) -> Result<u64> {
        let Sizes { width, heads, kv_heads, head_dim, ff } = self.sizes;
        let config = |name: &str| Ok(self.config.count(&[name])?.unwrap_or(0));
        match dim {
            Dim::Width => Ok(width),
            Dim::Q => Ok(heads * head_dim),
            Dim::Kv => Ok(kv_heads * head_dim),
            Dim::Head => Ok(head_dim),
            Dim::Ff => Ok(ff),
            Dim::Vocab => self.vocab_size(),
            Dim::Context => config("max_position_embeddings"),
            Dim::Types => config("type_vocab_size"),
            Dim::Taps => config("conv_L_cache"),
            Dim::One => Ok(1),
            Dim::Three => Ok(3 * width),
        }
    }

    pub(super) fn vocab_size(&self) -> Result<u64> {
        Ok(self.config.count(&["vocab_size"])?.unwrap_or(0))
    }

    pub(super) fn head_dim(&self) -> u64 {
        self.sizes.head_dim
    }

    /// `rope_freqs.weight`.
    pub(super) fn rope_factors(&self) -> Option<&[f32]> {
        self.rope.factors.as_deref()
    }

    /// The metadata below the architecture's name.
    pub(super) fn metadata(&self, folder: &Path) -> Result<Vec<(String, Value)>> {
        let mut pairs = vec![("block_count", Value::Unsigned(self.n_layers))];
        for key in KEYS.iter().chain(self.family.keys) {
            let value = match key.to {
                "feed_forward_length" => Some(Value::Unsigned(self.sizes.ff)),
                "attention.head_count_kv" => value(&self.config, key)?.map(|one| self.of_layers(one)).transpose()?,
                _ => value(&self.config, key)?,
            };
            pairs.extend(value.map(|value| (key.to, value)));
        }
        pairs.extend(self.rope.base.map(|base| ("rope.freq_base", float(base))));
        pairs.extend(self.rope.window_base.map(|base| ("rope.freq_base_swa", float(base))));
        pairs.extend(self.rope.pairs.iter().map(|(key, value)| (*key, value.clone())));
        let is_causal = self.config.get(&["is_causal"]).and_then(serde_json::Value::as_bool).unwrap_or(true);
        if self.family.is_encoder || !is_causal {
            pairs.push(("attention.causal", Value::Bool(false)));
        }
        if self.family.pools {
            pairs.extend(pooling(folder)?.map(|kind| ("pooling_type", Value::Unsigned(kind))));
        }
        let name = |key: &str| match key.starts_with("tokenizer.") {
            true => key.to_string(),
            false => format!("{}.{key}", self.family.name),
        };
        Ok(pairs.into_iter().map(|(key, value)| (name(key), value)).collect())
    }

    /// The number of heads with keys of their own: one for each layer where some layers have none.
    fn of_layers(&self, one: Value) -> Result<Value> {
        let types = self.layer_types()?;
        if !types.iter().any(|ty| ty == "conv") {
            return Ok(one);
        }
        let heads = |ty: &String| if ty == "conv" { 0 } else { self.sizes.kv_heads as i64 };
        Ok(Value::Integers(types.iter().map(heads).collect()))
    }

    /// What kind each layer is of; nothing where all are alike or the file does not say.
    fn layer_types(&self) -> Result<Vec<String>> {
        if let Some(types) = self.config.list("layer_types")? {
            let types: Vec<String> = types.iter().map(|ty| ty.as_str().unwrap_or_default().to_string()).collect();
            return match types.len() as u64 == self.n_layers {
                true => Ok(types),
                false => Err(self.config.wrong(&format!(
                    "layer_types names {} layers, but num_hidden_layers is {}",
                    types.len(),
                    self.n_layers
                ))),
            };
        }
        let Some(full) = self.config.list("full_attn_idxs")? else { return Ok(Vec::new()) };
        let is_full = |i: u64| full.iter().any(|n| n.as_u64() == Some(i));
        Ok((0..self.n_layers).map(|i| if is_full(i) { "full_attention" } else { "conv" }.to_string()).collect())
    }
}

fn family(config: &Object) -> Result<&'static Family> {
    let names = config.list("architectures")?.cloned().unwrap_or_default();
    let Some(name) = names.first().and_then(serde_json::Value::as_str) else {
        return Err(config.wrong("architectures names no class of transformers"));
    };
    FAMILIES.iter().find(|family| family.classes.contains(&name)).ok_or_else(|| {
        let known: Vec<&str> = FAMILIES.iter().flat_map(|family| family.classes).copied().collect();
        Error::unsupported(format!("{name} cannot be converted; what can is {}", known.join(", ")))
    })
}

/// The width of the feed-forward: LFM2's files name what it is computed from.
fn feed_forward(config: &Object, given: u64) -> Result<u64> {
    let given = config.count(&["block_ff_dim"])?.unwrap_or(given);
    let Some(multiple) = config.count(&["block_multiple_of"])?.filter(|&m| m > 0) else { return Ok(given) };
    if config.get(&["block_auto_adjust_ff_dim"]).and_then(serde_json::Value::as_bool) == Some(false) {
        return Ok(given);
    }
    let factor = config.number(&["block_ffn_dim_multiplier"])?.unwrap_or(1.0);
    let wanted = (factor * (2 * given / 3) as f64) as u64;
    Ok(wanted.min(1 << 24).next_multiple_of(multiple.min(1 << 24)))
}

fn value(config: &Object, key: &Key) -> Result<Option<Value>> {
    Ok(match key.kind {
        Kind::Count => config.count(key.from)?.map(Value::Unsigned),
        Kind::Float => config.number(key.from)?.map(float),
    })
}

/// Files have 32 bits of it.
pub(super) fn float(value: f64) -> Value {
    Value::Float(f64::from(value as f32))
}

/// How the vectors of a text's tokens become one, as sentence-transformers keeps it.
fn pooling(folder: &Path) -> Result<Option<u64>> {
    let modules: Option<Vec<serde_json::Value>> = super::json::read(folder, "modules.json")?;
    let is_pooling = |m: &&serde_json::Value| m["type"].as_str().is_some_and(|ty| ty.ends_with("Pooling"));
    let modules = modules.unwrap_or_default();
    let Some(path) = modules.iter().find(is_pooling).and_then(|m| m["path"].as_str()) else { return Ok(None) };
    let config = Object::require(folder, &format!("{path}/config.json"))?;
    let has = |name: &str| config.get(&[name]).and_then(serde_json::Value::as_bool) == Some(true);
    let mode = config.text("pooling_mode")?;
    let kinds = [("mean_tokens", "mean", 1), ("cls_token", "cls", 2), ("lasttoken", "lasttoken", 3)];
    let found = kinds.iter().find(|(key, _, _)| has(&format!("pooling_mode_{key}")));
    let found = found.or_else(|| kinds.iter().find(|(_, name, _)| mode == Some(*name)));
    match found {
        Some(&(_, _, kind)) => Ok(Some(kind)),
        None => Err(Error::unsupported(format!(
            "{path}/config.json pools neither the mean, nor the first, nor the last token"
        ))),
    }
}

impl Rope {
    fn new(family: &Family, config: &Object, head_dim: u64) -> Result<Rope> {
        let Some((base, window_base)) = family.rope else { return Ok(Rope::default()) };
        let given = match config.object("rope_scaling")? {
            Some(scaling) => Some(scaling),
            None => config.object("rope_parameters")?,
        };
        let given = given.unwrap_or_else(|| Object::empty("config.json"));
        let full = given.object("full_attention")?.unwrap_or_else(|| given.clone());
        let windowed = given.object("sliding_attention")?.unwrap_or_else(|| Object::empty("config.json"));
        let base = full.number(&["rope_theta"])?.or(config.number(&["rope_theta"])?).unwrap_or(base);
        let window_base = match window_base {
            Some(default) => {
                let base = windowed.number(&["rope_theta"])?.or(config.number(&["rope_local_base_freq"])?);
                Some(base.unwrap_or(default))
            }
            None => None,
        };
        let mut rope = Rope { base: Some(base), window_base, ..Rope::default() };
        rope.scale(&full, config, head_dim)?;
        Ok(rope)
    }

    /// How it is stretched beyond the context that the model was trained with.
    fn scale(&mut self, rope: &Object, config: &Object, head_dim: u64) -> Result<()> {
        let kind = rope.text("rope_type")?.or(rope.text("type")?).unwrap_or("default");
        let factor = || rope.number(&["factor"])?.ok_or_else(|| rope.wrong("the rotary embedding has no factor"));
        let original = || -> Result<u64> {
            let keys = ["original_max_position_embeddings"];
            let context = config.count(&["max_position_embeddings"])?;
            Ok(config.count(&keys)?.or(rope.count(&keys)?).or(context).unwrap_or(0))
        };
        let text = |text: &str| Value::String(text.into());
        match kind {
            "default" => {}
            "linear" => {
                self.pairs = vec![("rope.scaling.type", text("linear")), ("rope.scaling.factor", float(factor()?))];
            }
            "yarn" => {
                self.pairs = vec![
                    ("rope.scaling.type", text("yarn")),
                    ("rope.scaling.factor", float(factor()?)),
                    ("rope.scaling.original_context_length", Value::Unsigned(original()?)),
                ];
                for (key, names) in [
                    ("rope.scaling.yarn_ext_factor", &["extrapolation_factor"][..]),
                    ("rope.scaling.yarn_attn_factor", &["attention_factor", "attn_factor"]),
                    ("rope.scaling.yarn_beta_fast", &["beta_fast"]),
                    ("rope.scaling.yarn_beta_slow", &["beta_slow"]),
                ] {
                    self.pairs.extend(rope.number(names)?.map(|value| (key, float(value))));
                }
            }
            "llama3" => {
                let low = rope.number(&["low_freq_factor"])?.unwrap_or(1.0) as f32;
                let high = rope.number(&["high_freq_factor"])?.unwrap_or(4.0) as f32;
                let factor = rope.number(&["factor"])?.unwrap_or(8.0) as f32;
                let original = original()? as f32;
                let base = self.base.unwrap_or(10_000.0) as f32;
                let of_pair = |pair: u64| {
                    let frequency = 1.0 / base.powf((2 * pair) as f32 / head_dim as f32);
                    let wavelength = (2.0 * std::f64::consts::PI) as f32 / frequency;
                    if wavelength < original / high {
                        1.0
                    } else if wavelength > original / low {
                        factor
                    } else {
                        let smooth = (original / wavelength - low) / (high - low);
                        1.0 / ((1.0 - smooth) / factor + smooth)
                    }
                };
                self.factors = Some((0..head_dim / 2).map(of_pair).collect());
            }
            other => {
                return Err(Error::unsupported(format!(
                    "config.json: a rotary embedding of type {other} is not converted"
                )));
            }
        }
        Ok(())
    }
}
