//! A sidecar beside the model: its maps, the layer in front of them, its draft block.

use super::Model;
use super::decoder::{Decoder, Head};
use super::draft::Drafting;
use super::layer::{self, LayerWeights, Tap};
use super::loader::Loader;
use super::predict::{MapWeights, Maps};
use super::work::Kept;
use crate::backend::{Buf, CacheSpec, LayerCache, Plan, Scope, Span, Weight, read};
use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::gguf::source::Source;
use crate::quant::{TensorType, encode_q8_0};
use crate::sidecar::{Acceptance, Sidecar};

/// What is loaded of a sidecar's file.
struct Loaded {
    maps: MapWeights,
    /// The layer in front of the maps.
    own: Option<LayerWeights>,
    draft_block: Option<LayerWeights>,
    /// Weights `[dim]` and the numbers of the bias.
    acceptance: Option<(Vec<f32>, Acceptance)>,
}

/// A sidecar beside a model: it owns what was made for its file.
#[derive(Debug)]
pub(super) struct Attached {
    scope: Scope,
    pub(super) maps: Maps,
    /// Where it has a draft block.
    pub(super) drafting: Option<Drafting>,
}

impl Model {
    /// Adds a sidecar, in place of the one before, whose memory is given back. Returns whether it was made for this very
    /// quantization.
    ///
    /// # Errors
    /// See [`Sidecar::read`] and [`Sidecar::fits`]; [`crate::Kind::BadFile`] for missing tensors and wrong shapes,
    /// [`crate::Kind::OutOfMemory`], and whatever the sources report. The model is as before then. After the future was dropped it
    /// is, too; what was loaded so far is given back with the next call or forward.
    pub async fn add_sidecar(&mut self, gguf: &Gguf, sources: &mut [Box<dyn Source>]) -> Result<bool> {
        self.check_loaded()?;
        if self.kv.spec().has_states() {
            return Err(Error::unsupported("sidecars of models whose layers keep states"));
        }
        if self.decoder.table.is_some() || self.kv.spec().layers.iter().any(|l| matches!(l, LayerCache::SharedWith(_)))
        {
            return Err(Error::unsupported(
                "sidecars of models whose layers share keys, or have embeddings of their own",
            ));
        }
        let sidecar = Sidecar::read(gguf)?;
        let config = self.config();
        let same = sidecar.fits(self.decoder.weights.fingerprint, &config.name)?;
        check(&sidecar, config.layers.len(), config.n_vocab, config.logit_softcap)?;
        self.abandon();
        let scope = self.decoder.backend.begin_scope();
        self.loading = Some(scope);
        let mut taps = Vec::new();
        let (maps, drafting) = match self.load_sidecar(gguf, sources, sidecar, &mut taps).await {
            Ok(loaded) => loaded,
            Err(error) => {
                self.abandon();
                return Err(error);
            }
        };
        self.decoder.backend.end_scope();
        self.remove_sidecar();
        self.loading = None;
        self.kv.attach(taps.iter().map(|tap: &Tap| tap.cache).collect());
        self.decoder.taps = taps;
        self.sidecar = Some(Attached { scope, maps, drafting });
        Ok(same)
    }

    /// Takes the sidecar away and gives its memory back; does nothing without one.
    pub fn remove_sidecar(&mut self) {
        if let Some(old) = self.sidecar.take() {
            self.kv.attach(Vec::new());
            self.decoder.taps.clear();
            self.decoder.backend.release(old.scope);
        }
    }

    /// Gives back what was made of a sidecar whose loading did not come to its end.
    pub(super) fn abandon(&mut self) {
        if let Some(scope) = self.loading.take() {
            self.decoder.backend.end_scope();
            self.decoder.backend.release(scope);
        }
    }

    /// Loads maps and draft block, and the layers that go with them into `taps`.
    async fn load_sidecar(
        &mut self,
        gguf: &Gguf,
        sources: &mut [Box<dyn Source>],
        sidecar: Sidecar,
        taps: &mut Vec<Tap>,
    ) -> Result<(Maps, Option<Drafting>)> {
        let trunk = sidecar.trunk;
        let loaded = self.decoder.load_sidecar(gguf, sources, &sidecar).await?;
        let own = match &loaded.own {
            Some(weights) => Some(self.tap(taps, trunk, weights)?),
            None => None,
        };
        let maps = Maps::new(&mut *self.decoder.backend, &self.decoder.work, trunk, own, loaded.maps)?;
        let Some(weights) = &loaded.draft_block else { return Ok((maps, None)) };
        let tap = self.tap(taps, trunk, weights)?;
        let (extra, acceptance) = loaded.acceptance.unzip();
        let head = match &sidecar.draft_tokens {
            Some(tokens) => Some(self.decoder.reduced_head(tokens, &extra.unwrap_or_default()).await?),
            None => None,
        };
        Ok((maps, Some(Drafting { trunk, tap, tokens: sidecar.draft_tokens, head, acceptance })))
    }

    /// Adds a layer like the one behind the trunk to `taps`, with a cache of its own; returns its index.
    fn tap(&mut self, taps: &mut Vec<Tap>, trunk: usize, weights: &LayerWeights) -> Result<usize> {
        let Model { decoder, kv, .. } = self;
        let layers = vec![kv.spec().layers[trunk]];
        let cache = decoder.backend.new_cache(&CacheSpec { layers, n_blocks: kv.grown(), ..*kv.spec() })?;
        let layer = (decoder.config.layers[trunk], *weights, Kept { cache, layer: 0, further: 0 });
        let layers = layer::build(&mut decoder.work, &mut *decoder.backend, &[layer])?;
        taps.extend(layers.into_iter().map(|layer| Tap { after: trunk, layer, cache }));
        Ok(taps.len() - 1)
    }
}

/// What of a sidecar's header can be wrong for a model.
fn check(sidecar: &Sidecar, n_layers: usize, n_vocab: usize, logit_softcap: f32) -> Result<()> {
    if !(1..n_layers).contains(&sidecar.trunk) {
        return Err(Error::bad_file(format!("a trunk of {} layers; the model has {n_layers}", sidecar.trunk)));
    }
    if let Some(id) = sidecar.draft_tokens.iter().flatten().find(|&&t| t as usize >= n_vocab) {
        return Err(Error::bad_file(format!("draft token {id} is not in the vocabulary of {n_vocab}")));
    }
    // The acceptance head's row would be capped as logits are.
    if sidecar.accepts && logit_softcap != 0.0 {
        return Err(Error::unsupported("an acceptance head for a model whose logits are capped"));
    }
    Ok(())
}

impl Decoder {
    async fn load_sidecar(
        &mut self,
        gguf: &Gguf,
        sources: &mut [Box<dyn Source>],
        sidecar: &Sidecar,
    ) -> Result<Loaded> {
        let (c, mut ignore) = (&self.config, |_| {});
        let mut loader = Loader::new(gguf, sources, &mut *self.backend, &mut ignore);
        let layer = &c.layers[sidecar.trunk];
        let own = match sidecar.own {
            true => Some(LayerWeights::load(&mut loader, ("own.0", ""), c.dim, layer).await?),
            false => None,
        };
        let maps = MapWeights::load(&mut loader, c, sidecar.trunk).await?;
        let draft_block = match sidecar.drafts {
            true => {
                let prefix = format!("blk.{}", c.layers.len());
                Some(LayerWeights::load(&mut loader, (&prefix, ""), c.dim, layer).await?)
            }
            false => None,
        };
        let acceptance = match sidecar.accepts {
            true => {
                let (weights, bias) =
                    (loader.floats("accept.weight", c.dim).await?, loader.floats("accept.bias", 2).await?);
                Some((weights, Acceptance { constant: bias[0], confidence: bias[1] }))
            }
            false => None,
        };
        Ok(Loaded { maps, own, draft_block, acceptance })
    }

    /// The head's rows of some tokens, and `extra` ones.
    async fn reduced_head(&mut self, tokens: &[u32], extra: &[f32]) -> Result<Head> {
        let dim = self.config.dim;
        let n = tokens.len() + extra.len() / dim;
        let exact = self.weights.float_head || !dim.is_multiple_of(32);
        let ty = if exact { TensorType::F32 } else { TensorType::Q8_0 };
        let weight = self.backend.new_weight(ty, n, dim)?;
        let mut values = vec![0.0; tokens.len() * dim];
        let batch = self.work.rows;
        for (tokens, values) in tokens.chunks(batch).zip(values.chunks_mut(batch * dim)) {
            self.rows_of(self.weights.head, tokens, values).await?;
        }
        // The head scales what it makes.
        values.extend(extra.iter().map(|v| v / self.config.logit_scale));
        let bytes = if exact { values.iter().flat_map(|v| v.to_le_bytes()).collect() } else { encode_q8_0(&values) };
        self.backend.load_rows(weight, 0, &bytes)?;
        let bias = match self.weights.head_bias {
            Some(bias) => Some(self.some_of(bias, tokens, n).await?),
            None => None,
        };
        Head::new(&mut *self.backend, &self.work, weight, bias, n)
    }

    /// Reads rows of a matrix back, `[tokens, dim]`.
    async fn rows_of(&mut self, matrix: Weight, tokens: &[u32], out: &mut [f32]) -> Result<()> {
        let n = tokens.len();
        let spans = vec![Span { prefix: 1, ..Span::default() }; n];
        let (positions, cells) = (vec![0; n], vec![0; n]);
        let plan = Plan { tokens: tokens.to_vec(), positions, cells, spans, blocks: vec![0], ..Plan::default() };
        self.backend.begin(&plan)?;
        self.backend.embed(matrix, 1.0, self.stream.x);
        read(&mut *self.backend, self.stream.x, n, out).await
    }

    /// Some values of a vector over the vocabulary, and zeros up to `n`.
    async fn some_of(&mut self, all: Buf, tokens: &[u32], n: usize) -> Result<Buf> {
        let mut values = vec![0.0; self.config.n_vocab];
        read(&mut *self.backend, all, 1, &mut values).await?;
        let mut some: Vec<f32> = tokens.iter().map(|&t| values[t as usize]).collect();
        some.resize(n, 0.0);
        let buf = self.backend.new_buf(1, some.len())?;
        self.backend.write(buf, 0, &some)?;
        Ok(buf)
    }
}
