//! Texts to vectors: the stream behind the last norm, pooled over the tokens of each text, and projected where the model has a
//! projection. Texts are packed side by side, so a forward is full whatever their lengths are.

use super::Model;
use super::config::Pooling;
use super::decoder::Decoder;
use super::loader::{Linear, Loader, Place};
use super::sound;
use crate::backend::{BLOCK, Backend, Buf, Delta, Operand, Plan, Rows, read};
use crate::batch::{Batch, SeqId};
use crate::error::{Error, Result, resize};

/// A text to be embedded.
#[derive(Clone, Copy, Debug)]
pub struct Text<'a> {
    /// Its tokens, with those that the model wants in front and behind.
    pub tokens: &'a [u32],
    /// Where the second text of a pair begins; the number of tokens where there is one text.
    pub second: usize,
}

impl<'a> Text<'a> {
    /// One text.
    pub fn one(tokens: &'a [u32]) -> Self {
        Text { tokens, second: tokens.len() }
    }
}

/// What is added to the embedding of a token: vectors of its position and of the text of a pair that it is in.
#[derive(Debug, Default)]
pub(super) struct Added {
    /// `[n_positions, dim]`.
    positions: Option<Vec<f32>>,
    /// `[n_types, dim]`.
    types: Option<Vec<f32>>,
}

impl Added {
    pub(super) async fn load(loader: &mut Loader<'_>, dim: usize) -> Result<Added> {
        let positions = loader.table("position_embd.weight", dim).await?;
        Ok(Added { positions, types: loader.table("token_types.weight", dim).await? })
    }

    /// What is added to the tokens at some places, of a `dim` wide model: `[n, dim]`. Places are a position and the text that
    /// it is in, of a pair.
    fn rows(&self, places: impl Iterator<Item = (usize, usize)>, dim: usize) -> Option<Vec<f32>> {
        let Added { positions, types } = self;
        if positions.is_none() && types.is_none() {
            return None;
        }
        let row = |table: &'_ Option<Vec<f32>>, row: usize, out: &mut [f32]| {
            let table =
                table.iter().flat_map(|table| table.chunks_exact(dim).nth(row).or(table.chunks_exact(dim).next_back()));
            table.flatten().zip(out).for_each(|(v, out)| *out += v);
        };
        let mut rows = Vec::new();
        for (position, text) in places {
            let at = rows.len();
            rows.resize(at + dim, 0.0);
            row(positions, position, &mut rows[at..]);
            row(types, text, &mut rows[at..]);
        }
        Some(rows)
    }
}

/// Weights of a projection of pooled vectors.
#[derive(Clone, Copy, Debug)]
pub(super) struct PooledWeights {
    /// `[rows, cols]`.
    linear: Linear,
    rows: usize,
    cols: usize,
    /// Whether a hyperbolic tangent comes behind.
    tanh: bool,
}

impl PooledWeights {
    /// Those that the file has, in order: the head of a classifier, or the dense layers of EmbeddingGemma.
    pub(super) async fn load(loader: &mut Loader<'_>, dim: usize) -> Result<Vec<PooledWeights>> {
        let (mut weights, mut cols) = (Vec::new(), dim);
        for (name, tanh) in [("cls", true), ("cls.output", false), ("dense_2", false), ("dense_3", false)] {
            let Some(info) = loader.info(&format!("{name}.weight")) else { continue };
            let rows = info.dims.get(1).map_or(1, |&n| n as usize);
            let linear = loader.linear(Place::whole(name.to_string(), rows), cols).await?;
            weights.push(PooledWeights { linear, rows, cols, tanh });
            cols = rows;
        }
        Ok(weights)
    }
}

/// A projection of pooled vectors, with the memory that it works in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Projection {
    weights: PooledWeights,
    /// `[n, cols]`.
    input: Buf,
    packed: Operand,
    /// `[n, rows]`.
    out: Buf,
}

/// Makes projections ready to run, for `n` vectors.
///
/// # Errors
/// [`crate::Kind::OutOfMemory`].
pub(super) fn projections(backend: &mut dyn Backend, weights: &[PooledWeights], n: usize) -> Result<Vec<Projection>> {
    let projection = |&weights: &PooledWeights| {
        let PooledWeights { linear, rows, cols, .. } = weights;
        let packed = backend.new_operand(n, cols, &[linear.weight])?;
        Ok(Projection { weights, input: backend.new_buf(n, cols)?, packed, out: backend.new_buf(n, rows)? })
    };
    weights.iter().map(projection).collect()
}

/// Tokens of a text in a forward.
struct Piece {
    text: usize,
    seq: SeqId,
    /// Its first token.
    first: usize,
    len: usize,
}

impl Model {
    /// Width of what [`Model::embed`] makes of a text.
    pub fn embedding_dim(&self) -> usize {
        self.decoder.pooled.last().map_or(self.config().dim, |last| last.weights.rows)
    }

    /// Makes a vector of each text, of [`Model::embedding_dim`] values, not normalised. Short texts are read first. The cache
    /// needs room for one text at least; it holds nothing of them afterwards.
    ///
    /// # Errors
    /// As [`Model::check_text`]; [`crate::Kind::OutOfMemory`] where the cache has no room, [`crate::Kind::DeviceLost`].
    pub async fn embed(&mut self, texts: &[Text<'_>], pooling: Pooling) -> Result<Vec<Vec<f32>>> {
        texts.iter().try_for_each(|text| self.check_text(text))?;
        // Of a call whose future was dropped.
        self.end_reading();
        let vectors = self.read_texts(texts, self.pooling_of(pooling)).await;
        self.end_reading();
        let vectors = vectors?;
        match vectors.iter().flatten().all(|v| v.is_finite()) {
            true => Ok(vectors),
            false => Err(sound::no_numbers("the embeddings")),
        }
    }

    async fn read_texts(&mut self, texts: &[Text<'_>], pooling: Pooling) -> Result<Vec<Vec<f32>>> {
        let mut order: Vec<usize> = (0..texts.len()).collect();
        order.sort_by_key(|&text| std::cmp::Reverse(texts[text].tokens.len()));
        let mut vectors = vec![vec![0.0; self.config().dim]; texts.len()];
        let (mut batch, mut streams) = (Batch::new(), Vec::new());
        while !order.is_empty() {
            let pieces = self.pack(texts, &mut order, &mut batch)?;
            self.read_pieces(texts, &pieces, &batch, &mut streams).await?;
            let mut rows = streams.chunks_exact(self.config().dim);
            for piece in &pieces {
                let (rows, vector) = (rows.by_ref().take(piece.len), &mut vectors[piece.text]);
                pool(pooling, rows, (piece.first, texts[piece.text].tokens.len()), vector);
            }
            let Model { decoder, plan, .. } = self;
            let mut done: Vec<usize> =
                pieces.iter().filter(|p| p.first + p.len == texts[p.text].tokens.len()).map(|p| p.text).collect();
            done.sort_unstable();
            decoder
                .project(plan, vectors.iter_mut().enumerate().filter(|(i, _)| done.binary_search(i).is_ok()))
                .await?;
        }
        Ok(vectors)
    }

    /// What is pooled for a score.
    fn pooling_of(&self, pooling: Pooling) -> Pooling {
        match (pooling, self.config().causal) {
            (Pooling::Rank, true) => Pooling::Last,
            (Pooling::Rank, false) => Pooling::First,
            _ => pooling,
        }
    }

    /// Whether a text can be embedded.
    ///
    /// # Errors
    /// [`crate::Kind::InvalidRequest`] for one without tokens or with unknown ones, [`crate::Kind::PromptTooLong`].
    pub fn check_text(&self, text: &Text<'_>) -> Result<()> {
        self.check_loaded()?;
        let (n, longest) = (text.tokens.len(), self.context_length());
        if n == 0 {
            return Err(Error::invalid_request("a text without tokens has no embedding"));
        }
        if n > longest {
            return Err(Error::prompt_too_long(format!(
                "a text of {n} tokens; the model reads {longest} at once: cut it into pieces, or load the model with a longer \
                 context if it was trained for one"
            )));
        }
        match text.tokens.iter().find(|&&token| token as usize >= self.config().n_vocab) {
            Some(token) => Err(Error::invalid_request(format!(
                "token {token} is not in the vocabulary of {}",
                self.config().n_vocab
            ))),
            None => Ok(()),
        }
    }

    fn end_reading(&mut self) {
        self.reading.drain(..).for_each(|seq| self.kv.free(seq));
    }

    /// Takes texts, or the next piece of one, from the end of `order` until the batch is full.
    fn pack(&mut self, texts: &[Text<'_>], order: &mut Vec<usize>, batch: &mut Batch) -> Result<Vec<Piece>> {
        batch.clear();
        let (mut pieces, mut blocks) = (Vec::new(), self.kv.free_blocks());
        let mut slots = if self.kv.spec().has_states() { self.kv.free_slots() } else { usize::MAX };
        while let Some(&text) = order.last() {
            let tokens = texts[text].tokens;
            // A text that was begun is the only one that is being read.
            let begun = self.reading.last().copied().filter(|_| pieces.is_empty());
            let (first, room) = (begun.map_or(0, |seq| self.kv.len(seq)), self.max_batch() - batch.len());
            let left = tokens.len() - first;
            let n = match self.config().causal {
                true => left.min(room),
                false => left * usize::from(left <= room),
            };
            let needed = begun.map_or(Ok(n.div_ceil(BLOCK)), |seq| self.kv.blocks_needed(seq, n))?;
            let begins = usize::from(begun.is_none());
            if n == 0 || needed > blocks || begins > slots || (n < left && !pieces.is_empty()) {
                break;
            }
            (blocks, slots) = (blocks - needed, slots - begins);
            let seq = begun.unwrap_or_else(|| self.kv.new_seq());
            if begun.is_none() {
                self.reading.push(seq);
            }
            batch.push_run(seq, &tokens[first..first + n], false);
            pieces.push(Piece { text, seq, first, len: n });
            if n < left {
                break;
            }
            order.pop();
        }
        if pieces.is_empty() {
            return Err(Error::out_of_memory("the KV cache has no room for a text; other requests hold it"));
        }
        Ok(pieces)
    }

    /// Runs a batch: `streams` become what the last norm makes of it, `[n, dim]`.
    async fn read_pieces(
        &mut self,
        texts: &[Text<'_>],
        pieces: &[Piece],
        batch: &Batch,
        streams: &mut Vec<f32>,
    ) -> Result<()> {
        let Model { decoder, kv, plan, reading, .. } = self;
        kv.plan(&mut *decoder.backend, batch, plan)?;
        if !decoder.config.causal {
            for run in plan.spans.chunk_by_mut(|a, b| a.table == b.table) {
                let all = run.last().map_or(0, |span| span.prefix);
                run.iter_mut().for_each(|span| span.prefix = all);
            }
        }
        let places = pieces.iter().flat_map(|piece| {
            let second = texts[piece.text].second;
            (piece.first..piece.first + piece.len).map(move |at| (at, usize::from(at >= second)))
        });
        decoder.encode(plan, places, streams).await?;
        reading.clear();
        for piece in pieces {
            match piece.first + piece.len < texts[piece.text].tokens.len() {
                true => {
                    kv.commit_run(piece.seq)?;
                    reading.push(piece.seq);
                }
                false => kv.free(piece.seq),
            }
        }
        Ok(())
    }
}

/// Takes the rows of a piece into the vector of its text, of which they are those from `first` on of `len`.
fn pool<'a>(pooling: Pooling, rows: impl Iterator<Item = &'a [f32]>, (first, len): (usize, usize), vector: &mut [f32]) {
    let share = 1.0 / len as f32;
    for (row, at) in rows.zip(first..) {
        match pooling {
            Pooling::Mean => vector.iter_mut().zip(row).for_each(|(sum, v)| *sum += share * v),
            Pooling::Last if at + 1 == len => vector.copy_from_slice(row),
            Pooling::First | Pooling::Rank if at == 0 => vector.copy_from_slice(row),
            _ => {}
        }
    }
}

impl Decoder {
    /// Runs a plan through the layers and the last norm.
    async fn encode(
        &mut self,
        plan: &Plan,
        places: impl Iterator<Item = (usize, usize)>,
        streams: &mut Vec<f32>,
    ) -> Result<()> {
        let (dim, n) = (self.config.dim, plan.tokens.len());
        let added = self.weights.added.rows(places, dim);
        if let Some(added) = &added {
            self.backend.write(self.stream.delta, 0, added)?;
        }
        let delta = added.map(|_| Delta { buf: self.stream.delta, norm: None, scale: 1.0, gain: 1.0 });
        self.begin(plan).await?;
        self.embed();
        let delta = self.through_from(delta, 0..self.layers.len());
        self.backend.norm(&self.stream.complete(delta, Some(self.weights.norm)));
        resize(streams, n * dim, 0.0, "embeddings")?;
        read(&mut *self.backend, self.stream.x, n, streams).await
    }

    /// Puts what the projections make of vectors into their places, in a step over `plan`, which has as many rows at least.
    async fn project<'a>(
        &mut self,
        plan: &Plan,
        vectors: impl Iterator<Item = (usize, &'a mut Vec<f32>)>,
    ) -> Result<()> {
        let mut vectors: Vec<&mut Vec<f32>> = vectors.map(|(_, vector)| vector).collect();
        if vectors.is_empty() {
            return Ok(());
        }
        for Projection { weights, input, packed, out } in &self.pooled {
            let rows: Vec<f32> = vectors.iter().flat_map(|vector| vector.iter().copied()).collect();
            let run = Rows::Run { start: 0, end: vectors.len() as u32 };
            self.backend.write(*input, 0, &rows)?;
            self.backend.begin(plan)?;
            self.backend.pack(*input, run, *packed);
            self.backend.matmul(*packed, run, &[weights.linear.store(*out)]);
            let mut made = vec![0.0; vectors.len() * weights.rows];
            read(&mut *self.backend, *out, vectors.len(), &mut made).await?;
            if weights.tanh {
                made.iter_mut().for_each(|v| *v = v.tanh());
            }
            for (vector, made) in vectors.iter_mut().zip(made.chunks_exact(weights.rows)) {
                **vector = made.to_vec();
            }
        }
        Ok(())
    }
}
