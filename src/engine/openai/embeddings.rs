//! Embeddings of texts, in the shapes of OpenAI's API, and scores of documents for a query, in the shape that Jina's has and
//! others took over.

use super::super::Engine;
use super::body::{Prompt, prompts};
use super::fields::{count, flag, list, only_if, text, wrong};
use crate::error::Result;
use crate::model::{Pooling, Text};
use serde_json::{Map, Value, json};

/// A request with `input`, or with `query` and `documents`, whose texts are being read.
#[derive(Debug)]
pub(super) struct Reading {
    texts: Vec<Tokens>,
    /// Of the texts that were read, in their order.
    vectors: Vec<Option<Vec<f32>>>,
    pooling: Pooling,
    model: String,
    form: Form,
}

/// A text's tokens, and where the second one of a pair begins.
#[derive(Debug)]
struct Tokens {
    tokens: Vec<u32>,
    second: usize,
}

/// What an answer looks like.
#[derive(Debug)]
enum Form {
    Embeddings {
        dimensions: Option<usize>,
        base64: bool,
    },
    Scores {
        most: usize,
        /// What goes with each score.
        documents: Option<Vec<Value>>,
    },
}

/// Whether a request asks for vectors or scores of texts.
pub(super) fn is_reading(request: &Map<String, Value>) -> bool {
    has(request, "input") || has(request, "documents")
}

/// Null is the same as no field.
fn has(request: &Map<String, Value>, name: &str) -> bool {
    request.get(name).is_some_and(|value| !value.is_null())
}

impl Reading {
    /// Reads a request. Its answer carries `name` where it names no model.
    ///
    /// # Errors
    /// [`crate::Kind::InvalidRequest`] that names the field which is wrong.
    pub(super) fn new(request: &Map<String, Value>, engine: &Engine, name: &str) -> Result<Reading> {
        let model = match request.get("model").filter(|model| !model.is_null()) {
            Some(model) => text(model, "model")?.to_string(),
            None => name.to_string(),
        };
        let ranks = has(request, "documents");
        let (texts, pooling, form) = match ranks {
            true => pairs(request, engine)?,
            false => inputs(request, engine)?,
        };
        let at = |i: usize| format!("{}[{i}]", if ranks { "documents" } else { "input" });
        for (i, text) in texts.iter().enumerate() {
            engine.model().check_text(&text.text()).map_err(|e| e.at(at(i)).in_field(at(i)))?;
        }
        Ok(Reading { vectors: vec![None; texts.len()], texts, pooling, model, form })
    }

    /// Reads as many texts as a forward holds, one at least; the answer once all are read.
    ///
    /// # Errors
    /// See [`Engine::embed`].
    pub(super) async fn step(&mut self, engine: &mut Engine) -> Result<Option<Value>> {
        let mut room = engine.model().max_batch();
        let mut order: Vec<usize> = (0..self.texts.len()).filter(|&i| self.vectors[i].is_none()).collect();
        order.sort_by_key(|&i| self.texts[i].tokens.len());
        let mut fits = |&i: &usize| {
            let n = self.texts[i].tokens.len();
            let fits = n <= room;
            room = room.saturating_sub(n);
            fits
        };
        let n = order.iter().take_while(|i| fits(i)).count().clamp(1, order.len());
        let texts: Vec<Text<'_>> = order[..n].iter().map(|&i| self.texts[i].text()).collect();
        let vectors = engine.embed(&texts, self.pooling).await?;
        for (i, vector) in order[..n].iter().zip(vectors) {
            self.vectors[*i] = Some(vector);
        }
        Ok((n == order.len()).then(|| self.answer(engine)))
    }

    fn answer(&mut self, engine: &Engine) -> Value {
        let vectors = std::mem::take(&mut self.vectors).into_iter().flatten();
        let n: usize = self.texts.iter().map(|text| text.tokens.len()).sum();
        let usage = json!({"prompt_tokens": n, "total_tokens": n});
        match &mut self.form {
            Form::Embeddings { dimensions, base64 } => {
                let data = vectors.enumerate().map(|(index, mut vector)| {
                    vector.truncate(dimensions.unwrap_or(vector.len()));
                    normalize(&mut vector);
                    let embedding = if *base64 { base64_of(&vector).into() } else { numbers(&vector) };
                    json!({"object": "embedding", "index": index, "embedding": embedding})
                });
                json!({"object": "list", "data": data.collect::<Value>(), "model": self.model, "usage": usage})
            }
            Form::Scores { most, documents } => {
                let mut scores: Vec<(usize, f32)> = vectors.map(|vector| engine.score(&vector)).enumerate().collect();
                // Stable: equal ones stay in order.
                scores.sort_by(|a, b| b.1.total_cmp(&a.1));
                let results = scores.into_iter().take(*most).map(|(index, score)| {
                    let mut result = json!({"index": index, "relevance_score": number(score)});
                    if let Some(documents) = documents {
                        result["document"] = json!({"text": documents[index]});
                    }
                    result
                });
                json!({"object": "list", "results": results.collect::<Value>(), "model": self.model, "usage": usage})
            }
        }
    }
}

impl Tokens {
    fn text(&self) -> Text<'_> {
        Text { tokens: &self.tokens, second: self.second }
    }
}

/// The texts of a request for embeddings.
fn inputs(request: &Map<String, Value>, engine: &Engine) -> Result<(Vec<Tokens>, Pooling, Form)> {
    let (mut dimensions, mut base64) = (None, false);
    for (name, value) in request.iter().filter(|(_, value)| !value.is_null()) {
        match name.as_str() {
            "input" | "model" | "user" => {}
            "dimensions" => {
                let (n, all) = (count(value, name)?, engine.model().embedding_dim());
                only_if((1..=all).contains(&n), name, &format!("must be from 1 to {all}"))?;
                dimensions = Some(n);
            }
            "encoding_format" => {
                base64 = value == "base64";
                only_if(base64 || value == "float", name, "must be \"float\" or \"base64\"")?;
            }
            _ => return Err(wrong(name, "there is no such field; is it misspelt?")),
        }
    }
    let pooling = engine.pooling().map_err(|e| e.in_field("model"))?;
    let tokens = |input| {
        let tokens = match input {
            Prompt::Text(text) => engine.tokenizer().encode_whole(&text),
            Prompt::Tokens(tokens) => tokens,
        };
        Tokens { second: tokens.len(), tokens }
    };
    let texts = prompts(request.get("input").unwrap_or(&Value::Null), "input")?.into_iter().map(tokens).collect();
    Ok((texts, pooling, Form::Embeddings { dimensions, base64 }))
}

/// The query and the documents of a request for scores.
fn pairs(request: &Map<String, Value>, engine: &Engine) -> Result<(Vec<Tokens>, Pooling, Form)> {
    let (mut query, mut documents, mut most, mut returned) = (None, Vec::new(), usize::MAX, false);
    for (name, value) in request.iter().filter(|(_, value)| !value.is_null()) {
        match name.as_str() {
            "model" | "user" => {}
            "query" => query = Some(text(value, name)?),
            "documents" => {
                for (document, at) in list(value, name)? {
                    let document = if document.is_object() { &document["text"] } else { document };
                    documents.push(text(document, &at)?);
                }
            }
            "top_n" => most = count(value, name)?,
            "return_documents" => returned = flag(value, name)?,
            _ => return Err(wrong(name, "there is no such field; is it misspelt?")),
        }
    }
    let query = query.ok_or_else(|| wrong("query", "is missing"))?;
    let pair = |document: &&str| {
        let (tokens, second) = engine.pair(query, document).map_err(|e| e.in_field("model"))?;
        Ok(Tokens { tokens, second })
    };
    let texts = documents.iter().map(pair).collect::<Result<_>>()?;
    let documents = returned.then(|| documents.iter().map(|&document| document.into()).collect());
    Ok((texts, Pooling::Rank, Form::Scores { most, documents }))
}

/// Makes a vector one of length 1, unless it is 0.
pub fn normalize(vector: &mut [f32]) {
    let length = vector.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
    if length > 0.0 {
        vector.iter_mut().for_each(|v| *v = (f64::from(*v) / length) as f32);
    }
}

/// A number with as many digits as it has, and no more.
fn number(v: f32) -> Value {
    v.to_string().parse::<f64>().map_or(Value::Null, Value::from)
}

/// The numbers of a vector as JSON.
pub fn numbers(vector: &[f32]) -> Value {
    vector.iter().map(|&v| number(v)).collect()
}

/// The bytes of 32-bit floats, the lowest first, as text (RFC 4648).
fn base64_of(vector: &[f32]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bytes: Vec<u8> = vector.iter().flat_map(|v| v.to_le_bytes()).collect();
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let bits = (0..3).fold(0, |bits, i| bits << 8 | u32::from(*chunk.get(i).unwrap_or(&0)));
        for i in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * i)) as usize & 63];
            text.push(if i > chunk.len() { '=' } else { char::from(digit) });
        }
    }
    text
}
