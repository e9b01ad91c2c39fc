//! Arrows point down: which module may use which (ARCHITECTURE.md has the picture).

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Modules, and what they use: no more, and no less. `error` and `send` are open to all; a folder's own files may use each
/// other, but for the backends, which stand in the table by themselves.
const USES: &[(&str, &[&str])] = &[
    ("error", &[]),
    ("send", &[]),
    ("batch", &[]),
    ("quant", &[]),
    ("gguf", &["quant"]),
    ("tokenizer", &["gguf"]),
    ("chat", &["gguf", "tokenizer"]),
    ("sidecar", &["gguf"]),
    ("sample", &[]),
    ("backend", &["quant", "backend::cpu", "backend::webgpu", "backend::cuda"]),
    ("backend::cpu", &["backend", "quant"]),
    ("backend::gpu", &["backend", "quant"]),
    ("backend::webgpu", &["backend", "backend::gpu", "quant"]),
    ("backend::cuda", &["backend", "backend::gpu", "quant"]),
    ("kv", &["backend", "batch"]),
    ("model", &["backend", "kv", "batch", "gguf", "quant", "sidecar"]),
    ("prefill", &["model"]),
    ("speculate", &["batch", "model", "sample", "tokenizer"]),
    (
        "engine",
        &["speculate", "backend", "kv", "batch", "gguf", "model", "prefill", "sample", "tokenizer", "chat", "sidecar"],
    ),
    ("session", &["backend", "chat", "engine", "gguf", "model"]),
];

/// Open to all.
const BASE: [&str; 2] = ["error", "send"];

#[test]
fn modules_use_what_the_table_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    files(&root, &mut paths);
    let mut found = BTreeSet::new();
    for path in paths {
        let inside = path.strip_prefix(&root).expect("a file of src").with_extension("");
        let mut module: Vec<String> = inside.iter().map(|part| part.to_string_lossy().into_owned()).collect();
        if module == ["lib"] {
            continue;
        }
        module.pop_if(|last| last == "mod");
        let text = fs::read_to_string(&path).expect("a source file");
        let tokens: TokenStream = text.parse().expect("a file that compiles");
        let mut used = Vec::new();
        paths_in(&tokens, &module, &mut used);
        let from = row(&module);
        for target in used {
            let to = row(&target);
            if from != to && !BASE.contains(&to.as_str()) {
                found.insert((from.clone(), to));
            }
        }
    }
    let table: BTreeSet<(String, String)> =
        USES.iter().flat_map(|(from, uses)| uses.iter().map(|to| (from.to_string(), to.to_string()))).collect();
    let (undrawn, unused): (Vec<_>, Vec<_>) = (found.difference(&table).collect(), table.difference(&found).collect());
    assert!(undrawn.is_empty(), "modules use others that they may not: {undrawn:?}");
    assert!(unused.is_empty(), "the table has arrows that nobody uses: {unused:?}");
}

#[test]
fn every_way_to_write_a_path_is_understood() {
    let module = ["backend", "webgpu", "link"].map(String::from);
    let cases: &[(&str, &[&str])] = &[
        ("use crate::kv;", &["kv"]),
        ("use crate::{engine, model::{Model, self}};", &["engine", "model::Model", "model"]),
        ("use super::super::cpu::Cpu;", &["backend::cpu::Cpu"]),
        ("use super::{super::cuda, step};", &["backend::cuda", "backend::webgpu::step"]),
        ("fn f() -> crate::sample::Top { g!(crate::chat::x()) }", &["sample::Top", "chat::x"]),
        ("mod inner { use super::super::step; }", &["backend::webgpu::step"]),
        ("use self::deeper::X;", &["backend::webgpu::link::deeper::X"]),
        ("pub(crate) fn f() {} /* crate::engine */ // super::super::cpu", &[]),
    ];
    for (text, expected) in cases {
        let mut used = Vec::new();
        paths_in(&text.parse().expect("tokens"), &module, &mut used);
        let used: Vec<String> = used.iter().map(|path| path.join("::")).collect();
        assert_eq!(used, *expected, "{text}");
    }
}

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

/// The row of the table that an absolute path belongs to. Items at the crate's root, such as `crate::Kind`, are those of `error`.
fn row(path: &[String]) -> String {
    let two = path.iter().take(2).map(String::as_str).collect::<Vec<_>>().join("::");
    let one = path.first().map_or("error", String::as_str);
    match USES.iter().find(|(name, _)| *name == two).or_else(|| USES.iter().find(|(name, _)| *name == one)) {
        Some((name, _)) => name.to_string(),
        None if one.starts_with(char::is_uppercase) => "error".into(),
        None => panic!("{one} is not in the table"),
    }
}

/// Collects the absolute paths that `tokens` of `module` name by `crate::`, `super::` or `self::`.
fn paths_in(tokens: &TokenStream, module: &[String], out: &mut Vec<Vec<String>>) {
    let tokens: Vec<TokenTree> = tokens.clone().into_iter().collect();
    let mut at = 0;
    while at < tokens.len() {
        match &tokens[at] {
            TokenTree::Ident(word) if word == "mod" => {
                if let (Some(TokenTree::Ident(name)), Some(TokenTree::Group(body))) =
                    (tokens.get(at + 1), tokens.get(at + 2))
                {
                    paths_in(&body.stream(), &[module, &[name.to_string()]].concat(), out);
                    at += 2;
                }
            }
            TokenTree::Ident(word) if is_colons(&tokens, at + 1) => {
                let start = match word.to_string().as_str() {
                    "crate" => Some(Vec::new()),
                    "self" => Some(module.to_vec()),
                    "super" => Some(module[..module.len() - 1].to_vec()),
                    _ => None,
                };
                if let Some(start) = start {
                    at = tree(&tokens, at + 1, start, out);
                    continue;
                }
            }
            TokenTree::Group(group) => paths_in(&group.stream(), module, out),
            _ => {}
        }
        at += 1;
    }
}

fn is_colons(tokens: &[TokenTree], at: usize) -> bool {
    let colon = |i: usize| matches!(tokens.get(i), Some(TokenTree::Punct(p)) if p.as_char() == ':');
    colon(at) && colon(at + 1)
}

/// Reads on from the `::` behind `path`; returns where it ends.
fn tree(tokens: &[TokenTree], mut at: usize, mut path: Vec<String>, out: &mut Vec<Vec<String>>) -> usize {
    while is_colons(tokens, at) {
        match tokens.get(at + 2) {
            Some(TokenTree::Ident(name)) if name == "super" => _ = path.pop(),
            Some(TokenTree::Ident(name)) => path.push(name.to_string()),
            Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
                branches(&group.stream(), &path, out);
                return at + 3;
            }
            _ => break,
        }
        at += 3;
    }
    out.push(path);
    at
}

/// The branches of `path::{…}`.
fn branches(tokens: &TokenStream, path: &[String], out: &mut Vec<Vec<String>>) {
    let tokens: Vec<TokenTree> = tokens.clone().into_iter().collect();
    for branch in tokens.split(|t| matches!(t, TokenTree::Punct(p) if p.as_char() == ',')) {
        let Some(TokenTree::Ident(first)) = branch.first() else { continue };
        let mut inner = path.to_vec();
        match first.to_string().as_str() {
            "self" => {}
            "super" => _ = inner.pop(),
            name => inner.push(name.to_string()),
        }
        tree(branch, 1, inner, out);
    }
}
