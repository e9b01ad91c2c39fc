//! What each layer gets of a token besides the stream (Gemma 4): a row of a table that stays in the file, and a projection of the
//! token's embedding.

use super::loader::{Linear, Loader, Place};
use super::work::{Stream, Workspace};
use crate::backend::{Activation, Backend, Buf, Delta, Gate, Norm, Operand, Rows, Weight};
use crate::error::{Error, Result, resize};
use crate::gguf::source::Source;
use crate::quant::{self, TensorType};

/// Weights of one layer.
#[derive(Clone, Copy, Debug)]
pub(super) struct PerLayerWeights {
    /// `[width, dim]`, of the token's embedding.
    project: Linear,
    /// `[width]`.
    norm: Buf,
    /// `[width, dim]`, of the stream.
    gate: Linear,
    /// `[dim, width]`.
    output: Linear,
    /// Behind `output` `[dim]`.
    post_norm: Buf,
    width: usize,
}

impl PerLayerWeights {
    /// Loads those of one of `n_layers` layers.
    pub(super) async fn load(
        loader: &mut Loader<'_>,
        (layer, n_layers): (usize, usize),
        dim: usize,
        width: usize,
    ) -> Result<Self> {
        let name = |part: &str| format!("blk.{layer}.{part}");
        let rows = layer * width..(layer + 1) * width;
        let project = loader.linear(Place::part("per_layer_model_proj".into(), rows, n_layers * width), dim).await?;
        Ok(PerLayerWeights {
            project: Linear { scale: project.scale / (dim as f32).sqrt(), ..project },
            norm: loader.vector("per_layer_proj_norm.weight", width).await?,
            gate: loader.linear(Place::whole(name("inp_gate"), width), dim).await?,
            output: loader.linear(Place::whole(name("proj"), dim), width).await?,
            post_norm: loader.vector(&name("post_norm.weight"), dim).await?,
            width,
        })
    }
}

/// What one layer does with it.
#[derive(Clone, Copy, Debug)]
pub(super) struct PerLayer {
    weights: PerLayerWeights,
    /// Of tokens, scaled `[n, dim]`.
    embedding: Operand,
    /// The table's rows of this layer, then what it gets `[n, width]`.
    own: Buf,
    /// `[n, width]`.
    projected: Buf,
    /// The stream `[n, dim]`.
    packed: Operand,
    /// `[n, width]`.
    gate: Buf,
    /// Input of `output` `[n, width]`.
    gated: Operand,
}

impl PerLayer {
    /// Adds what the layer gets, behind its feed-forward, whose `delta` is left to be added; returns what is left then.
    pub(super) fn run(&self, backend: &mut dyn Backend, stream: &Stream, delta: Option<Delta>) -> Delta {
        let PerLayerWeights { project, norm, gate, output, post_norm, .. } = self.weights;
        backend.matmul(self.embedding, Rows::All, &[project.store(self.projected)]);
        let projected = Delta { buf: self.projected, norm: Some(norm), scale: 0.5f32.sqrt(), gain: 1.0 };
        let (rows, eps) = (Rows::All, stream.eps);
        backend.norm(&Norm { x: self.own, delta: Some(projected), norm: None, eps, out: None, rows });
        backend.norm(&stream.norm(delta, None, self.packed, rows));
        backend.matmul(self.packed, rows, &[gate.store(self.gate)]);
        let activation = Activation::GeluTanh;
        backend.gate(&Gate { gate: self.gate, up: Some(self.own), activation, out: self.gated });
        backend.matmul(self.gated, rows, &[output.store(stream.delta)]);
        stream.left(Some(post_norm))
    }
}

/// The table `[n_vocab, n_layers * width]`, of which a forward reads its tokens' rows.
pub(super) struct Table {
    source: Box<dyn Source>,
    ty: TensorType,
    offset: u64,
    row_bytes: usize,
    /// Of tokens `[n, dim]`.
    embedding: (Buf, Operand),
    /// That of each layer; see [`PerLayer`].
    own: Vec<Buf>,
    width: usize,
    staging: Vec<u8>,
    rows: Vec<f32>,
}

impl Table {
    /// Makes layers and table ready to run; takes the source of the table's file out of `sources`.
    ///
    /// # Errors
    /// [`crate::Kind::OutOfMemory`].
    pub(super) fn new(
        backend: &mut dyn Backend,
        work: &mut Workspace,
        weights: &[PerLayerWeights],
        place: TablePlace,
        sources: Vec<Box<dyn Source>>,
    ) -> Result<(Table, Vec<PerLayer>)> {
        let readers = |reader: fn(&PerLayerWeights) -> Weight| weights.iter().map(reader).collect::<Vec<_>>();
        let width = weights.first().map_or(0, |w| w.width);
        let embedding = backend.new_operand(work.rows, work.dim, &readers(|w| w.project.weight))?;
        let packed = backend.new_operand(work.rows, work.dim, &readers(|w| w.gate.weight))?;
        let gated = backend.new_operand(work.rows, width, &readers(|w| w.output.weight))?;
        let projected = work.buf(backend, "projected", width)?;
        let gate = work.buf(backend, "gate", width)?;
        let mut layers = Vec::new();
        for &weights in weights {
            let own = backend.new_buf(work.rows, width)?;
            layers.push(PerLayer { weights, embedding, own, projected, packed, gate, gated });
        }
        let missing = || Error::invalid_request("the file of per-layer embeddings was not given");
        let source = sources.into_iter().nth(place.part).ok_or_else(missing)?;
        let table = Table {
            source,
            ty: place.ty,
            offset: place.offset,
            row_bytes: place.row_bytes,
            embedding: (backend.new_buf(work.rows, work.dim)?, embedding),
            own: layers.iter().map(|layer| layer.own).collect(),
            width,
            staging: Vec::new(),
            rows: Vec::new(),
        };
        Ok((table, layers))
    }

    /// Reads the rows of these tokens.
    ///
    /// # Errors
    /// [`crate::Kind::Storage`] or [`crate::Kind::Download`] where the file cannot be read any more, [`crate::Kind::BadFile`]
    /// for values that are no numbers.
    pub(super) async fn read(&mut self, backend: &mut dyn Backend, tokens: &[u32]) -> Result<()> {
        let (n, width, all) = (tokens.len(), self.width, self.width * self.own.len());
        resize(&mut self.rows, n * all, 0.0, "per-layer embeddings")?;
        self.staging.resize(self.row_bytes, 0);
        let mut row = vec![0.0; all];
        let factor = (width as f32 / 2.0).sqrt();
        for (i, &token) in tokens.iter().enumerate() {
            let offset = self.offset + u64::from(token) * self.row_bytes as u64;
            self.source.read_at(offset, &mut self.staging).await?;
            if !self.ty.are_numbers(&self.staging) {
                return Err(Error::bad_file(format!(
                    "the per-layer embedding of token {token} is not made of numbers"
                )));
            }
            quant::decode(self.ty, &self.staging, &mut row)?;
            for (layer, values) in row.chunks_exact(width).enumerate() {
                let out = &mut self.rows[(layer * n + i) * width..][..width];
                out.iter_mut().zip(values).for_each(|(out, v)| *out = factor * v);
            }
        }
        for (own, rows) in self.own.iter().zip(self.rows.chunks_exact((n * width).max(1))) {
            backend.write(*own, 0, rows)?;
        }
        Ok(())
    }

    /// Makes the embeddings of the step's tokens the left side of the layers' projections.
    pub(super) fn embed(&self, backend: &mut dyn Backend, embeddings: Weight, scale: f32) {
        let (embedded, packed) = self.embedding;
        backend.embed(embeddings, scale, embedded);
        backend.pack(embedded, Rows::All, packed);
    }
}

/// Where the table lies in a model's files.
#[derive(Clone, Copy, Debug)]
pub(super) struct TablePlace {
    /// Which file.
    pub(super) part: usize,
    pub(super) ty: TensorType,
    pub(super) offset: u64,
    pub(super) row_bytes: usize,
}
