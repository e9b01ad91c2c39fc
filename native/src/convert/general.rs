//! The metadata below `general.`: what a model is called, how large it is, how its maker samples.

use super::json::Object;
use super::model::{Model, float};
use foreword::Result;
use foreword::gguf::Value;
use foreword::quant::TensorType;
use std::path::Path;

/// The version of ggml's formats that files of today have.
const QUANTIZATION_VERSION: u64 = 2;

/// Names in `generation_config.json`, and whether they are whole numbers.
const SAMPLING: &[(&str, &str, bool)] =
    &[("top_k", "top_k", true), ("top_p", "top_p", false), ("min_p", "min_p", false), ("temperature", "temp", false)];

/// Of a model of so many weights, which are written in this type.
pub(super) fn metadata(model: &Model, folder: &Path, (weights, ty): (u64, TensorType)) -> Result<Vec<(String, Value)>> {
    let text = |text: &str| Value::String(text.into());
    let mut pairs = vec![("architecture".to_string(), text(model.family.name)), ("type".into(), text("model"))];
    if let Some(generation) = Object::read(folder, "generation_config.json")? {
        for &(from, to, is_whole) in SAMPLING {
            let value = generation.number(&[from])?;
            let value = value.map(|value| if is_whole { Value::Signed(value as i64) } else { float(value) });
            pairs.extend(value.map(|value| (format!("sampling.{to}"), value)));
        }
    }
    let file_type = match ty {
        TensorType::F32 => 0,
        TensorType::F16 => 1,
        _ => 32,
    };
    let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_path_buf());
    let name = folder.file_name().map(|name| title(&name.to_string_lossy())).filter(|name| !name.is_empty());
    pairs.push(("name".into(), Value::String(name.unwrap_or_else(|| model.family.name.into()))));
    pairs.push(("size_label".into(), Value::String(size_label(weights))));
    pairs.push(("file_type".into(), Value::Unsigned(file_type)));
    pairs.push(("quantization_version".into(), Value::Unsigned(QUANTIZATION_VERSION)));
    Ok(pairs.into_iter().map(|(key, value)| (format!("general.{key}"), value)).collect())
}

/// A folder's name as a title: `smollm2-135M-instruct` is `Smollm2 135M Instruct`.
fn title(name: &str) -> String {
    let is_version = |word: &str| word.strip_prefix('v').unwrap_or(word).starts_with(|c: char| c.is_ascii_digit());
    let word = |word: &str| {
        if word != word.to_lowercase() || is_version(word) {
            return word.to_string();
        }
        let mut before = ' ';
        let letter =
            |c: char| if std::mem::replace(&mut before, c).is_alphabetic() { c } else { c.to_ascii_uppercase() };
        word.chars().map(letter).collect()
    };
    name.replace('-', " ").split_whitespace().map(word).collect::<Vec<_>>().join(" ")
}

/// How many weights there are, in two digits or more: `135M`, `1.2B`.
fn size_label(weights: u64) -> String {
    let (scaled, unit) = match weights as f64 {
        n if n > 1e12 => (n * 1e-12, "T"),
        n if n > 1e9 => (n * 1e-9, "B"),
        n if n > 1e6 => (n * 1e-6, "M"),
        n => (n * 1e-3, "K"),
    };
    let digits = format!("{}", scaled.round()).trim_start_matches('0').len();
    format!("{scaled:.*}{unit}", 2_usize.saturating_sub(digits))
}

#[cfg(test)]
mod tests {
    use super::{size_label, title};

    #[test]
    fn sizes_have_two_digits() {
        let labels = [134_515_008, 1_235_814_400, 7_200_000_000, 22_713_216, 30_400, 400].map(size_label);
        assert_eq!(labels, ["135M", "1.2B", "7.2B", "23M", "30K", "0.40K"]);
    }

    #[test]
    fn titles_keep_what_is_written_in_its_own_way() {
        assert_eq!(title("smollm2-135M-instruct"), "Smollm2 135M Instruct");
        assert_eq!(title("Qwen2.5-0.5B-v2.1"), "Qwen2.5 0.5B v2.1");
        assert_eq!(title("my_tune"), "My_Tune");
    }
}
