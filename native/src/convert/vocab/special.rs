//! Special tokens, whether they are added to texts, the chat template, and what normalizers say: by llama.cpp's rules.

use super::Files;
use super::tokens::content;
use crate::convert::json::{self, Object};
use foreword::gguf::{Strings, Value};
use foreword::{Error, Result};
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::path::Path;

/// Names in `tokenizer_config.json` and `config.json`, and what GGUF calls them.
const NAMED: [(&str, &str); 7] = [
    ("bos", "bos"),
    ("eos", "eos"),
    ("unk", "unknown"),
    // Misspelt in GGUF.
    ("sep", "seperator"),
    ("pad", "padding"),
    ("cls", "cls"),
    ("mask", "mask"),
];

/// What was the end of texts, where a template says that it is another token.
const END_OF_TURN: (&str, &str) = ("eot", "eot");

#[derive(Default)]
pub(super) struct Special {
    ids: BTreeMap<&'static str, u64>,
    /// Whether a text gets them.
    adds: BTreeMap<&'static str, bool>,
    templates: Vec<(String, String)>,
    lowercase: Option<bool>,
    strip_accents: Option<bool>,
}

/// Texts of special tokens, as they are found out step by step.
type Texts = BTreeMap<&'static str, String>;

impl Special {
    /// `n` is the number of tokens; ids beyond it do not count.
    pub(super) fn read(folder: &Path, files: &Files, n: usize) -> Result<Special> {
        let mut special = Special::default();
        let mut texts = Texts::new();
        if let Some(config) = &files.config {
            for (kind, _) in NAMED {
                let text = config.get(&[&format!("{kind}_token")]).and_then(content);
                texts.extend(text.map(|text| (kind, text.to_string())));
            }
        }
        if let Some(tokenizer) = &files.tokenizer {
            special.normalizer(tokenizer.get(&["normalizer"]).unwrap_or(&Json::Null));
            special.post_processor(tokenizer.get(&["post_processor"]).unwrap_or(&Json::Null), &mut texts);
        }
        if let Some(config) = &files.config {
            special.templates = templates(folder, config)?;
            for (kind, _) in NAMED {
                let flag = config.get(&[&format!("add_{kind}_token")]).and_then(Json::as_bool);
                special.adds.extend(flag.map(|flag| (kind, flag)));
            }
        }
        let no_tokens = Vec::new();
        let added =
            files.tokenizer.as_ref().map(|t| t.list("added_tokens")).transpose()?.flatten().unwrap_or(&no_tokens);
        // Texts count only by their tokenizer_config.json.
        for (kind, text) in texts.iter().filter(|_| files.config.is_some()) {
            let id =
                added.iter().find(|token| token["content"] == text.as_str()).and_then(|token| token["id"].as_u64());
            special.ids.extend(id.filter(|&id| id < n as u64).map(|id| (*kind, id)));
        }
        let config = Object::require(folder, "config.json")?;
        let text_config = config.object("text_config")?.unwrap_or_else(|| Object::empty("config.json"));
        for (kind, _) in NAMED {
            let key = format!("{kind}_token_id");
            let id = config.get(&[&key]).or(text_config.get(&[&key])).and_then(Json::as_u64);
            if let Some(id) = id.filter(|&id| id < n as u64) {
                special.ids.entry(kind).or_insert(id);
            }
        }
        Ok(special)
    }

    fn normalizer(&mut self, normalizer: &Json) {
        let flag = |name: &str| normalizer[name].as_bool();
        match normalizer["type"].as_str() {
            Some("Lowercase") => self.lowercase = Some(true),
            Some("StripAccents") => self.strip_accents = Some(true),
            Some("BertNormalizer") => {
                self.lowercase = flag("lowercase").or(self.lowercase);
                self.strip_accents = flag("strip_accents").or(self.strip_accents);
            }
            Some("Sequence") => {
                normalizer["normalizers"].as_array().into_iter().flatten().for_each(|inner| self.normalizer(inner));
            }
            _ => {}
        }
    }

    /// What is put in front of a text and behind it.
    fn post_processor(&mut self, processor: &Json, texts: &mut Texts) {
        // Encoders begin and end texts with tokens of their own names.
        for (kind, other) in [("bos", "cls"), ("eos", "sep")] {
            if let (None, Some(text)) = (texts.get(kind), texts.get(other).cloned()) {
                texts.insert(kind, text);
            }
        }
        let inner = processor["processors"].as_array().map_or(std::slice::from_ref(processor), Vec::as_slice);
        for processor in inner {
            match processor["type"].as_str() {
                Some("RobertaProcessing") => {
                    self.adds.extend([("bos", true), ("eos", true), ("sep", true)]);
                    for kind in ["cls", "sep"] {
                        if let Some(text) = processor[kind][0].as_str() {
                            texts.entry(kind).or_insert(text.into());
                        }
                    }
                }
                Some("TemplateProcessing") => self.template(processor, texts),
                _ => {}
            }
        }
    }

    fn template(&mut self, processor: &Json, texts: &mut Texts) {
        let special = |part: Option<&Json>| part.and_then(|p| p["SpecialToken"]["id"].as_str()).map(str::to_string);
        let single = processor["single"].as_array().map_or(&[][..], Vec::as_slice);
        let ends = if single.len() > 1 { (single.first(), single.last()) } else { (None, None) };
        let (first, last) = (special(ends.0), special(ends.1));
        if let Some(first) = &first {
            if ![texts.get("bos"), texts.get("cls")].contains(&Some(first)) {
                texts.entry("bos").or_insert(first.clone());
                texts.entry("cls").or_insert(first.clone());
            }
            self.adds.insert("bos", [texts.get("bos"), texts.get("cls")].contains(&Some(first)));
        }
        if let Some(last) = &last {
            if texts.get("eos") != Some(last)
                && let Some(eos) = texts.insert("eos", last.clone())
            {
                texts.insert(END_OF_TURN.0, eos);
            }
            self.adds.insert("eos", true);
        }
        self.separator(processor, (first, last), texts);
    }

    /// Whether something stands between two texts.
    fn separator(&mut self, processor: &Json, (first, last): (Option<String>, Option<String>), texts: &mut Texts) {
        let special = |part: &Json| part["SpecialToken"]["id"].as_str().map(str::to_string);
        let mut pair = processor["pair"].as_array().map_or(&[][..], Vec::as_slice);
        if let [begin, rest @ ..] = pair
            && first.is_some()
            && special(begin) == first
        {
            pair = rest;
        }
        if let [rest @ .., end] = pair
            && last.is_some()
            && special(end) == last
        {
            pair = rest;
        }
        let [a, middle @ .., b] = pair else { return };
        if a["Sequence"]["id"] != "A" || b["Sequence"]["id"] != "B" || middle.is_empty() {
            return;
        }
        let separates = |text: &String| [texts.get("sep"), texts.get("eos")].contains(&Some(text));
        let begins = special(&middle[0]).is_some_and(|text| separates(&text)) && last.is_none();
        let ends = middle.len() == 2 && special(&middle[1]).is_some_and(|text| separates(&text));
        self.adds.insert("sep", begins || ends);
        if let (true, None, Some(eos)) = (begins || ends, texts.get("sep"), texts.get("eos").cloned()) {
            texts.insert("sep", eos);
        }
    }

    pub(super) fn pairs(&self) -> Vec<(String, Value)> {
        let mut pairs = Vec::new();
        // GGUF has no name for the token that begins an encoder's texts besides BOS.
        for (kind, name) in NAMED.into_iter().chain([END_OF_TURN]).filter(|(kind, _)| *kind != "cls") {
            let id = self.ids.get(kind).map(|&id| Value::Unsigned(id));
            pairs.extend(id.map(|id| (format!("tokenizer.ggml.{name}_token_id"), id)));
        }
        for (kind, &flag) in self.adds.iter().filter(|(kind, _)| ["bos", "eos", "sep"].contains(*kind)) {
            pairs.push((format!("tokenizer.ggml.add_{kind}_token"), Value::Bool(flag)));
        }
        let named = |name: &String| name != DEFAULT;
        let names: Strings =
            self.templates.iter().map(|(name, _)| name).filter(|n| named(n)).map(String::as_str).collect();
        for (name, template) in &self.templates {
            let key =
                if named(name) { format!("tokenizer.chat_template.{name}") } else { "tokenizer.chat_template".into() };
            pairs.push((key, Value::String(template.clone())));
        }
        if !names.is_empty() {
            pairs.push(("tokenizer.chat_templates".into(), Value::Strings(names)));
        }
        let flags = [("lowercase", self.lowercase), ("strip_accents", self.strip_accents)];
        for (name, flag) in flags {
            pairs.extend(flag.map(|flag| (format!("tokenizer.ggml.normalizer.{name}"), Value::Bool(flag))));
        }
        pairs
    }
}

const DEFAULT: &str = "default";

/// Chat templates and their names: of `tokenizer_config.json`, else of files of their own.
fn templates(folder: &Path, config: &Object) -> Result<Vec<(String, String)>> {
    let one = |template: &str| vec![(DEFAULT.to_string(), template.to_string())];
    match config.get(&["chat_template"]) {
        Some(Json::String(template)) => return Ok(one(template)),
        Some(Json::Array(templates)) => {
            let named = |t: &Json| Some((plain(t["name"].as_str()?), t["template"].as_str()?.to_string()));
            return Ok(templates.iter().filter_map(named).filter(|(name, _)| !name.is_empty()).collect());
        }
        Some(_) => return Err(config.wrong("chat_template is neither a text nor a list")),
        None => {}
    }
    if let Some(bytes) = json::read_bytes(&folder.join("chat_template.jinja"))? {
        let template = String::from_utf8(bytes).map_err(|_| Error::bad_file("chat_template.jinja is not UTF-8"))?;
        return Ok(one(&template));
    }
    let json = Object::read(folder, "chat_template.json")?;
    Ok(json.as_ref().map(|j| j.text("chat_template")).transpose()?.flatten().map(one).unwrap_or_default())
}

/// A name as part of a key.
fn plain(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}
