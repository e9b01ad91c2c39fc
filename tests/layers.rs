//! Arrows point down: which module may use which (ARCHITECTURE.md has the picture).

use std::fs;
use std::path::{Path, PathBuf};

/// Module, and what it may use; `error` is open to all. A folder's own files may use each other.
const ALLOWED: &[(&str, &[&str])] = &[
    ("error", &[]),
    ("batch", &[]),
    ("quant", &[]),
    ("gguf", &["quant"]),
    ("tokenizer", &["gguf"]),
    ("chat", &["gguf", "tokenizer"]),
    ("sidecar", &["gguf"]),
    ("sample", &[]),
    ("backend", &["quant", "batch"]),
    ("kv", &["backend", "batch", "quant"]),
    ("model", &["backend", "kv", "batch", "gguf", "quant", "sidecar"]),
    ("prefill", &["model"]),
    ("predict", &["model", "sidecar"]),
    ("speculate", &["batch", "model", "sample", "tokenizer"]),
    (
        "engine",
        &["speculate", "backend", "kv", "batch", "gguf", "model", "predict", "prefill", "sample", "tokenizer", "chat"],
    ),
];

fn files(folder: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            files(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

#[test]
fn modules_use_only_what_lies_below_them() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut all = Vec::new();
    files(&root, &mut all);
    for path in all {
        let inside = path.strip_prefix(&root).expect("a file of src").with_extension("");
        let module = inside.iter().next().and_then(|m| m.to_str()).expect("a module").to_string();
        if module == "lib" {
            continue;
        }
        let (_, allowed) =
            ALLOWED.iter().find(|(m, _)| *m == module).unwrap_or_else(|| panic!("{module} is not in the table"));
        let text = fs::read_to_string(&path).expect("a source file");
        // Comments may point anywhere.
        let text: String = text.lines().filter(|l| !l.trim_start().starts_with("//")).flat_map(|l| [l, "\n"]).collect();
        for used in
            text.split("crate::").skip(1).map(|rest| rest.split(|c: char| !c.is_alphanumeric() && c != '_').next())
        {
            let used = used.unwrap_or_default();
            // Types at the crate's root, such as `crate::Kind`, belong to `error`.
            let root_item = used.is_empty() || used.starts_with(|c: char| c.is_uppercase());
            let fine = root_item || used == "error" || used == module || allowed.contains(&used);
            assert!(fine, "{} uses {used}, which {module} may not", path.display());
        }
        // Backends never know of each other.
        let backend = inside.iter().nth(1).and_then(|m| m.to_str());
        for other in ["cpu", "webgpu", "cuda"] {
            let foreign =
                module == "backend" && backend.is_some_and(|b| ["cpu", "webgpu", "cuda"].contains(&b) && b != other);
            assert!(
                !(foreign && text.contains(&format!("backend::{other}"))),
                "{} uses backend::{other}",
                path.display()
            );
        }
    }
}
