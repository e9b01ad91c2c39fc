//! What the cache holds of committed tokens, to be kept elsewhere and put back.

use super::Model;
use crate::backend::{Backend, Buf, Cache, CellShape, LayerCache, Plan, ReadCells, RopeAppend, RopePairs, Scope, read};
use crate::batch::{Batch, SeqId};
use crate::error::{Error, Result};
use crate::kv::Recompute;
use crate::sidecar::Fingerprint;

/// Tokens whose entries are on their way at a time.
const RUN: usize = 256;

/// Gets the keys `[n, width]` and values of a run of tokens in a layer.
pub(crate) type Visit<'a> = dyn FnMut(&KeptLayer, [&[f32]; 2]) -> Result<()> + 'a;

/// Makes the keys `[n, width]` and values of a run of tokens in a layer.
pub(crate) type Fill<'a> = dyn FnMut(&KeptLayer, [&mut [f32]; 2]) -> Result<()> + 'a;

/// A layer that keeps keys and values.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeptLayer {
    cache: Cache,
    layer: usize,
    pub(crate) shape: CellShape,
}

/// Matrices through which entries go in and out; they belong to a scope of their own.
struct Staging {
    scope: Scope,
    /// Once for each width.
    bufs: Vec<StagingBufs>,
    /// The angle 0.
    freqs: Buf,
}

/// Keys and values `[RUN, width]`.
#[derive(Clone, Copy, Default)]
struct StagingBufs {
    width: usize,
    k: Buf,
    v: Buf,
}

impl Staging {
    fn new(backend: &mut dyn Backend, layers: &[KeptLayer]) -> Result<Staging> {
        let mut staging = Staging { scope: backend.begin_scope(), bufs: Vec::new(), freqs: Buf::default() };
        let made = staging.fill(backend, layers);
        backend.end_scope();
        if made.is_err() {
            backend.release(staging.scope);
        }
        made.map(|()| staging)
    }

    fn fill(&mut self, backend: &mut dyn Backend, layers: &[KeptLayer]) -> Result<()> {
        for width in layers.iter().map(KeptLayer::width) {
            if self.bufs.iter().all(|bufs| bufs.width != width) {
                self.bufs.push(StagingBufs { width, k: backend.new_buf(RUN, width)?, v: backend.new_buf(RUN, width)? });
            }
        }
        self.freqs = backend.new_buf(1, 1)?;
        // Written, since angles are made on the host.
        backend.write(self.freqs, 0, &[0.0])
    }

    fn of(&self, layer: &KeptLayer) -> StagingBufs {
        self.bufs.iter().find(|bufs| bufs.width == layer.width()).copied().unwrap_or_default()
    }
}

impl KeptLayer {
    /// Values of a key, and of a value, of a token.
    pub(crate) fn width(&self) -> usize {
        self.shape.n_kv_heads * self.shape.head_dim
    }
}

impl Model {
    /// Which weights these are.
    pub(crate) fn fingerprint(&self) -> Fingerprint {
        self.decoder.weights.fingerprint
    }

    /// The layers that keep keys and values, those of a sidecar at last.
    ///
    /// # Errors
    /// [`crate::Kind::Unsupported`] where layers keep states.
    pub(crate) fn kept_layers(&self) -> Result<Vec<KeptLayer>> {
        let layers = &self.kv.spec().layers;
        if self.kv.spec().has_states() {
            return Err(Error::unsupported("conversations of models whose layers keep states cannot be saved"));
        }
        let paged = |layer: usize| match layers[layer] {
            LayerCache::Paged(shape) => Some(shape),
            _ => None,
        };
        let own = (0..layers.len()).map(|layer| (self.kv.cache(), layer, layer));
        let taps = self.decoder.taps.iter().map(|tap| (tap.cache, 0, tap.after));
        let kept =
            own.chain(taps).filter_map(|(cache, layer, like)| Some(KeptLayer { cache, layer, shape: paged(like)? }));
        Ok(kept.collect())
    }

    /// Reads the entries of all tokens of a sequence: run by run, and in a run layer by layer, keys `[n, width]` and values.
    ///
    /// # Errors
    /// [`crate::Kind::InvalidRequest`] for an unknown sequence, [`crate::Kind::OutOfMemory`], [`crate::Kind::DeviceLost`], and
    /// whatever `visit` reports.
    pub(crate) async fn read_cells(&mut self, seq: SeqId, visit: &mut Visit<'_>) -> Result<()> {
        self.abandon();
        self.check_loaded()?;
        let layers = self.kept_layers()?;
        let staging = Staging::new(&mut *self.decoder.backend, &layers)?;
        let done = self.read_through(&staging, &layers, seq, visit).await;
        self.decoder.backend.release(staging.scope);
        done
    }

    async fn read_through(
        &mut self,
        staging: &Staging,
        layers: &[KeptLayer],
        seq: SeqId,
        visit: &mut Visit<'_>,
    ) -> Result<()> {
        let Model { decoder, kv, plan, .. } = self;
        let backend = &mut *decoder.backend;
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for first in (0..kv.len(seq)).step_by(RUN) {
            let tokens = &[0; RUN][..RUN.min(kv.len(seq) - first)];
            kv.plan_recompute(&[Recompute { seq, first, tokens, output: false }], plan)?;
            for layer in layers {
                let StagingBufs { k, v, .. } = staging.of(layer);
                for rows in [&mut keys, &mut values] {
                    rows.resize(tokens.len() * layer.width(), 0.0);
                }
                backend.begin(plan)?;
                backend.read_cells(&ReadCells { cache: layer.cache, layer: layer.layer, k, v });
                read(backend, k, tokens.len(), &mut keys).await?;
                read(backend, v, tokens.len(), &mut values).await?;
                visit(layer, [&keys, &values])?;
            }
        }
        Ok(())
    }

    /// Makes a sequence of `tokens` whose entries `fill` puts into keys `[n, width]` and values: run by run, and in a run layer by
    /// layer.
    ///
    /// # Errors
    /// [`crate::Kind::OutOfMemory`], [`crate::Kind::DeviceLost`], and whatever `fill` reports; there is no sequence then.
    pub(crate) fn write_cells(&mut self, tokens: &[u32], fill: &mut Fill<'_>) -> Result<SeqId> {
        self.abandon();
        self.check_loaded()?;
        let layers = self.kept_layers()?;
        let staging = Staging::new(&mut *self.decoder.backend, &layers)?;
        let seq = self.kv.new_seq();
        let done = self.write_through(&staging, &layers, (seq, tokens), fill);
        self.decoder.backend.release(staging.scope);
        match done {
            Ok(()) => Ok(seq),
            Err(error) => {
                self.kv.free(seq);
                Err(error)
            }
        }
    }

    fn write_through(
        &mut self,
        staging: &Staging,
        layers: &[KeptLayer],
        (seq, tokens): (SeqId, &[u32]),
        fill: &mut Fill<'_>,
    ) -> Result<()> {
        let Model { decoder, kv, plan, .. } = self;
        let backend = &mut *decoder.backend;
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for tokens in tokens.chunks(RUN) {
            let mut batch = Batch::new();
            batch.push_run(seq, tokens, false);
            kv.plan(backend, &batch, plan)?;
            for layer in layers {
                for rows in [&mut keys, &mut values] {
                    rows.resize(tokens.len() * layer.width(), 0.0);
                }
                fill(layer, [&mut keys, &mut values])?;
                append(backend, plan, staging, layer, [&keys, &values])?;
            }
            kv.commit_run(seq)?;
        }
        Ok(())
    }
}

/// Writes entries as they are to the cells of a plan.
fn append(
    backend: &mut dyn Backend,
    plan: &Plan,
    staging: &Staging,
    layer: &KeptLayer,
    [keys, values]: [&[f32]; 2],
) -> Result<()> {
    let StagingBufs { k, v, .. } = staging.of(layer);
    backend.write(k, 0, keys)?;
    backend.write(v, 0, values)?;
    backend.begin(plan)?;
    backend.rope_append(&RopeAppend {
        q: None,
        kv: Some([k, v]),
        n_heads: layer.shape.n_kv_heads,
        norm_values: false,
        q_norm: None,
        k_norm: None,
        eps: 0.0,
        norm_last: false,
        temperature: None,
        freqs: staging.freqs,
        rope_dim: 2,
        pairs: RopePairs::Adjacent,
        magnitude: 1.0,
        cache: layer.cache,
        layer: layer.layer,
    });
    Ok(())
}
