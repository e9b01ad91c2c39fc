//! `foreword eval kv-prediction` on a tiny model, with a sidecar and an auxiliary that are made here.

use crate::{TINY, run};
use foreword::gguf::source::{FileSource, Source};
use foreword::gguf::write::{Tensor, to_bytes};
use foreword::gguf::{Gguf, Metadata, Value};
use foreword::model::config_of;
use foreword::quant::TensorType;
use foreword::sidecar::{ARCHITECTURE, Fingerprint};
use std::path::Path;

/// A tensor of a file: name, dimensions, values.
type Floats = (String, Vec<u64>, Vec<f32>);

struct Tiny {
    gguf: Gguf,
    tensors: Vec<(String, TensorType, Vec<u64>, Vec<u8>)>,
    fingerprint: Fingerprint,
}

fn tiny() -> Tiny {
    let mut sources: Vec<Box<dyn Source>> = vec![Box::new(FileSource::open(Path::new(TINY)).expect("a file"))];
    let gguf = pollster::block_on(Gguf::read(&mut sources)).expect("a header");
    let mut fingerprint = Fingerprint::default();
    fingerprint.set_types(&gguf);
    let mut tensors = Vec::new();
    for t in &gguf.tensors {
        let mut bytes = vec![0; t.n_bytes as usize];
        pollster::block_on(sources[t.part].read_at(t.offset, &mut bytes)).expect("bytes");
        fingerprint.add(&t.name, &bytes);
        tensors.push((t.name.clone(), t.ty, t.dims.clone(), bytes));
    }
    Tiny { gguf, tensors, fingerprint }
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// Maps to keys and values: `value(row, col)` for every layer.
fn maps(
    front: &str,
    layers: std::ops::Range<usize>,
    (rows, cols): (usize, usize),
    value: fn(usize, usize) -> f32,
) -> Vec<Floats> {
    let names = layers.flat_map(|l| ["attn_k", "attn_v"].map(|part| format!("{front}.{l}.{part}")));
    let both = |name: String| {
        let weight = (0..rows * cols).map(|i| value(i / cols, i % cols)).collect();
        let shape = vec![cols as u64, rows as u64];
        [(format!("{name}.weight"), shape, weight), (format!("{name}.bias"), vec![rows as u64], vec![0.0; rows])]
    };
    names.flat_map(both).collect()
}

fn write(path: &Path, metadata: &Metadata, model: &Tiny, with_model: bool, maps: &[Floats]) {
    let data: Vec<Vec<u8>> = maps.iter().map(|m| bytes(&m.2)).collect();
    let own = model.tensors.iter().filter(|_| with_model);
    let own = own.map(|(name, ty, dims, data)| Tensor { name, ty: *ty, dims, data });
    let added = maps.iter().zip(&data).map(|((name, dims, _), data)| Tensor { name, ty: TensorType::F32, dims, data });
    std::fs::write(path, to_bytes(metadata, &own.chain(added).collect::<Vec<_>>()).expect("a file")).expect("room");
}

#[test]
fn an_auxiliary_that_is_the_base_itself_is_exact_and_noise_is_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let (sidecar, auxiliary, text) =
        (folder.path().join("noise.gguf"), folder.path().join("same.gguf"), folder.path().join("text.txt"));
    let model = tiny();
    let config = config_of(&model.gguf, None).expect("a config");
    let (layers, width) = (config.layers.len(), config.attention(0).expect("attention").kv_dim());
    let mut metadata = Metadata::default();
    metadata.insert("general.architecture", Value::String(ARCHITECTURE.into()));
    metadata.insert("foreword-sidecar.trunk_layers", Value::Unsigned(1));
    metadata.insert("foreword-sidecar.base.norms", Value::String(format!("{:016x}", model.fingerprint.norms)));
    metadata.insert("foreword-sidecar.base.tensors", Value::String(format!("{:016x}", model.fingerprint.tensors)));
    let value = |row: usize, col: usize| ((row * 31 + col * 17) % 23) as f32 / 23.0 - 0.5;
    let mut noise = maps("blk", 1..layers, (width, 32), value);
    for part in ["gate", "up.0", "up.1"] {
        let values = (0..32 * config.dim).map(|i| value(i / config.dim, i % config.dim)).collect();
        noise.push((format!("maps.{part}.weight"), vec![config.dim as u64, 32], values));
    }
    write(&sidecar, &metadata, &model, false, &noise);
    let mut metadata = model.gguf.metadata.clone();
    metadata.insert("foreword-auxiliary.sources", Value::Integers((0..layers as i64).collect()));
    let same = maps("map", 0..layers, (width, width), |row, col| f32::from(u8::from(row == col)));
    write(&auxiliary, &metadata, &model, true, &same);
    std::fs::write(&text, "A heron stands in the reeds and waits for fish. ".repeat(40)).expect("room");

    let path = |p: &Path| p.to_str().expect("a name").to_string();
    let (file, sidecar, auxiliary) = (path(&text), path(&sidecar), path(&auxiliary));
    let mut args = vec!["eval", "kv-prediction", TINY, "--file", &file, "--sidecar", &sidecar];
    args.extend(["--auxiliary", &auxiliary, "--context-tokens", "150", "--scored", "20", "--chunks", "3"]);
    let report = run(&[&args[..], &["--threads", "2", "--json"]].concat()).json();
    let rows = report["rows"].as_array().expect("a list");
    let of = |front: &str| -> Vec<(f64, f64)> {
        let named = rows.iter().filter(|r| r["way"].as_str().is_some_and(|way| way.starts_with(front)));
        named.map(|r| (r["nll"].as_f64().expect("a number"), r["agreement"].as_f64().expect("a number"))).collect()
    };
    let exact = of("exact")[0];
    assert_eq!(exact.1, 1.0);
    assert_eq!(of("alone"), [exact]);
    let forms = of("auxiliary");
    assert_eq!(forms.len(), 2);
    for (nll, agreement) in forms {
        assert!((nll - exact.0).abs() < 1e-3 && agreement > 0.9, "{nll} {agreement} are not {exact:?}");
    }
    // Tails of 32 and 96 tokens; that of the run time is 32 as well.
    let predicted = of("predicted");
    assert!(predicted.len() >= 2 && predicted.iter().all(|p| (p.0 - exact.0).abs() > 1e-3), "{predicted:?}");
    for kind in ["last 32,", "at random", "by attention"] {
        let named = rows.iter().filter(|r| r["way"].as_str().is_some_and(|way| way.contains(kind)));
        assert!(named.count() > 0, "{kind}: {report}");
    }
}
