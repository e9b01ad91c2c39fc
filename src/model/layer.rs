//! A layer: a mixer and a feed-forward on the residual stream.

use super::attention::{Attention, AttentionWeights};
use super::config::{self, LayerConfig};
use super::dense::{Dense, DenseWeights};
use super::experts::{Experts, ExpertsWeights};
use super::linear::{LinearAttention, LinearAttentionWeights};
use super::loader::Loader;
use super::per_layer::{PerLayer, PerLayerWeights};
use super::short_conv::{ShortConv, ShortConvWeights};
use super::work::{Form, Kept, Stream, Workspace};
use crate::backend::{Backend, Buf, Cache, Delta, NormWeights, Operand, Rows, Weight};
use crate::error::{Error, Result};
use arrayvec::ArrayVec;

/// Weights of one layer.
#[derive(Clone, Copy, Debug)]
pub(super) struct LayerWeights {
    /// In front of the mixer `[dim]`.
    mixer_norm: Option<NormWeights>,
    mixer: MixerWeights,
    beside: Option<LinearAttentionWeights>,
    /// Behind the mixer `[dim]`.
    mixer_post_norm: Option<Buf>,
    /// In front of the feed-forward `[dim]`.
    ffn_norm: Option<NormWeights>,
    ffn: FfnWeights,
    /// Behind the feed-forward `[dim]`.
    ffn_post_norm: Option<Buf>,
    /// Behind that.
    pub(super) per_layer: Option<PerLayerWeights>,
    /// Factor on the stream behind the layer.
    gain: f32,
}

#[derive(Clone, Copy, Debug)]
enum MixerWeights {
    Attention(AttentionWeights),
    ShortConv(ShortConvWeights),
    Linear(LinearAttentionWeights),
}

#[derive(Clone, Copy, Debug)]
enum FfnWeights {
    None,
    Dense(DenseWeights),
    Experts(ExpertsWeights),
}

impl MixerWeights {
    /// The projection behind the mixer, and the form of its input.
    fn output(&self) -> (Form, Weight) {
        match self {
            MixerWeights::Attention(weights) => weights.output(),
            MixerWeights::ShortConv(weights) => weights.output(),
            MixerWeights::Linear(weights) => weights.output(),
        }
    }

    /// Those that read the normed stream.
    fn readers(&self) -> ArrayVec<Weight, 4> {
        match self {
            MixerWeights::Attention(weights) => weights.readers().collect(),
            MixerWeights::ShortConv(weights) => weights.readers().into_iter().collect(),
            MixerWeights::Linear(weights) => weights.readers().collect(),
        }
    }
}

impl FfnWeights {
    /// Those that read the normed stream.
    fn readers(&self) -> Vec<Weight> {
        match self {
            FfnWeights::None => Vec::new(),
            FfnWeights::Dense(weights) => weights.readers().collect(),
            FfnWeights::Experts(weights) => weights.readers().collect(),
        }
    }

    /// The projections behind the feed-forward, and the form of their input.
    fn outputs(&self) -> Vec<(Form, Weight)> {
        match self {
            FfnWeights::None => Vec::new(),
            FfnWeights::Dense(weights) => vec![weights.output()],
            FfnWeights::Experts(weights) => weights.outputs().collect(),
        }
    }
}

impl LayerWeights {
    /// Loads the layer whose tensors are named `{prefix}.*`. `behind` is the norm behind what comes before it, in models whose
    /// norms stand there.
    pub(super) async fn load(
        loader: &mut Loader<'_>,
        (prefix, behind): (&str, &str),
        dim: usize,
        layer: &LayerConfig,
    ) -> Result<Self> {
        let name = |part: &str| format!("{prefix}.{part}");
        // Where there are no norms in front, there must be some behind.
        let post = |loader: &Loader<'_>, name: &str| !layer.pre_norm || loader.has(name);
        let (mixer_post, ffn_post) = (name("post_attention_norm.weight"), name("post_ffw_norm.weight"));
        // Where it is the only norm behind the mixer, it stands in front of the feed-forward (gpt-oss).
        let is_ffn_norm = layer.pre_norm && !loader.has(&name("ffn_norm.weight")) && !loader.has(&ffn_post);
        let ffn_norm = if is_ffn_norm && loader.has(&mixer_post) { "post_attention_norm" } else { "ffn_norm" };
        // Nothing norms what two mixers make, or a feed-forward that is not there.
        let mixer_is_normed = post(loader, &mixer_post) && ffn_norm == "ffn_norm" && layer.beside.is_none();
        let ffn_is_normed = post(loader, &ffn_post) && layer.ffn != config::Ffn::None;
        Ok(LayerWeights {
            mixer_norm: match layer.pre_norm {
                true => Some(loader.norm(&name("attn_norm"), behind, dim).await?),
                false => None,
            },
            mixer: match &layer.mixer {
                config::Mixer::Attention(spec) => {
                    MixerWeights::Attention(AttentionWeights::load(loader, prefix, dim, spec).await?)
                }
                config::Mixer::ShortConv(spec) => {
                    MixerWeights::ShortConv(ShortConvWeights::load(loader, prefix, dim, spec).await?)
                }
                config::Mixer::Linear(spec) => {
                    MixerWeights::Linear(LinearAttentionWeights::load(loader, prefix, dim, spec).await?)
                }
            },
            beside: match &layer.beside {
                Some(spec) => Some(LinearAttentionWeights::load(loader, prefix, dim, spec).await?),
                None => None,
            },
            mixer_post_norm: loader.vector_if(mixer_is_normed, &mixer_post, dim).await?,
            ffn_norm: match layer.pre_norm && layer.ffn != config::Ffn::None {
                true => Some(loader.norm(&name(ffn_norm), &name("attn_output_norm"), dim).await?),
                false => None,
            },
            ffn: match &layer.ffn {
                config::Ffn::None => FfnWeights::None,
                config::Ffn::Dense(spec) => {
                    FfnWeights::Dense(DenseWeights::load(loader, (prefix, ""), dim, spec).await?)
                }
                config::Ffn::Experts(spec) => {
                    FfnWeights::Experts(ExpertsWeights::load(loader, prefix, dim, spec).await?)
                }
            },
            ffn_post_norm: loader.vector_if(ffn_is_normed, &ffn_post, dim).await?,
            per_layer: None,
            gain: loader.gain(&name("layer_output_scale.weight"), ffn_is_normed).await?,
        })
    }

    /// Those that read the normed stream.
    fn readers(&self) -> impl Iterator<Item = Weight> {
        let beside = self.beside.iter().flat_map(LinearAttentionWeights::readers);
        self.mixer.readers().into_iter().chain(beside).chain(self.ffn.readers())
    }

    /// The projections behind the mixers, and the form of their input.
    fn mixed(&self) -> impl Iterator<Item = (Form, Weight)> {
        [self.mixer.output()].into_iter().chain(self.beside.map(|weights| weights.output()))
    }
}

/// A layer with the memory that it works in.
#[derive(Clone, Debug)]
pub(super) struct Layer {
    mixer_norm: Option<NormWeights>,
    mixer_post_norm: Option<Buf>,
    ffn_norm: Option<NormWeights>,
    ffn_post_norm: Option<Buf>,
    pub(super) per_layer: Option<PerLayer>,
    gain: f32,
    /// Input of mixer and feed-forward `[n, dim]`.
    pub(super) normed: Operand,
    mixer: Mixer,
    beside: Option<Box<LinearAttention>>,
    ffn: Ffn,
}

#[derive(Clone, Debug)]
enum Mixer {
    Attention(Box<Attention>),
    ShortConv(ShortConv),
    Linear(Box<LinearAttention>),
}

#[derive(Clone, Debug)]
enum Ffn {
    None,
    Dense(Dense),
    Experts(Box<Experts>),
}

impl Layer {
    /// Runs the layer. `delta` is what the layer before left to be added to the stream; returns what this one leaves.
    pub(super) fn run(&self, backend: &mut dyn Backend, stream: &Stream, delta: Option<Delta>) -> Option<Delta> {
        let delta = self.mix(backend, stream, delta);
        self.feed(backend, stream, delta)
    }

    fn mix(&self, backend: &mut dyn Backend, stream: &Stream, delta: Option<Delta>) -> Option<Delta> {
        self.norm(backend, stream, delta, self.normed);
        let added = match &self.mixer {
            Mixer::Attention(attention) => attention.run(backend, self.normed),
            Mixer::ShortConv(conv) => conv.run(backend, self.normed),
            Mixer::Linear(linear) => linear.run(backend, self.normed),
        };
        let delta = stream.add(backend, added, self.mixer_post_norm);
        match &self.beside {
            // What the first one makes is in the stream, as no norm comes between.
            Some(linear) => {
                let added = linear.run(backend, self.normed);
                stream.add(backend, added, None)
            }
            None => delta,
        }
    }

    fn feed(&self, backend: &mut dyn Backend, stream: &Stream, delta: Option<Delta>) -> Option<Delta> {
        if !matches!(self.ffn, Ffn::None) {
            backend.norm(&stream.norm(delta, self.ffn_norm, self.normed, Rows::All));
        }
        let delta = match &self.ffn {
            Ffn::None => delta,
            Ffn::Dense(dense) => {
                let added = dense.run(backend, self.normed);
                stream.add(backend, added, self.ffn_post_norm)
            }
            Ffn::Experts(experts) => {
                experts.run(backend, self.normed, stream.delta);
                Some(stream.left(self.ffn_post_norm))
            }
        };
        let delta = match &self.per_layer {
            Some(own) => Some(own.run(backend, stream, delta)),
            None => delta,
        };
        delta.map(|delta| Delta { gain: self.gain, ..delta })
    }

    /// Completes the stream in front of this layer and puts it, normed as the mixer reads it, into `out`.
    pub(super) fn norm(&self, backend: &mut dyn Backend, stream: &Stream, delta: Option<Delta>, out: Operand) {
        backend.norm(&stream.norm(delta, self.mixer_norm, out, Rows::All));
    }

    /// Completes the stream and puts what the mixer needs of these tokens later into the cache; nothing is added to the stream.
    pub(super) fn fill(&self, backend: &mut dyn Backend, stream: &Stream, delta: Option<Delta>) {
        self.norm(backend, stream, delta, self.normed);
        match &self.mixer {
            Mixer::Attention(attention) => {
                if let Some(kv) = attention.weights.kv {
                    attention.fill(backend, self.normed, kv);
                }
            }
            Mixer::ShortConv(conv) => _ = conv.run(backend, self.normed),
            Mixer::Linear(linear) => _ = linear.run(backend, self.normed),
        }
        if let Some(linear) = &self.beside {
            _ = linear.run(backend, self.normed);
        }
    }

    /// The mixer, where it is attention.
    pub(super) fn attention(&self) -> Option<&Attention> {
        match &self.mixer {
            Mixer::Attention(attention) => Some(attention),
            Mixer::ShortConv(_) | Mixer::Linear(_) => None,
        }
    }
}

/// A layer that reads the stream behind the first `after` layers and whose cache is filled whenever they are run.
#[derive(Clone, Debug)]
pub(super) struct Tap {
    pub(super) after: usize,
    pub(super) layer: Layer,
    /// Where it keeps keys and values.
    pub(super) cache: Cache,
}

/// Makes layers ready to run.
///
/// # Errors
/// [`crate::Kind::OutOfMemory`].
pub(super) fn build(
    work: &mut Workspace,
    backend: &mut dyn Backend,
    layers: &[(LayerConfig, LayerWeights, Kept)],
) -> Result<Vec<Layer>> {
    let dim = work.dim;
    let normed = layers.iter().flat_map(|(_, weights, _)| weights.readers().map(|reader| ((1, dim), reader)));
    let normed = work.operands(backend, normed)?;
    let mixed = work.operands(backend, layers.iter().flat_map(|(_, weights, _)| weights.mixed()))?;
    let fed = work.operands(backend, layers.iter().flat_map(|(_, weights, _)| weights.ffn.outputs()))?;
    let mut built = Vec::new();
    for (config, weights, kept) in layers {
        let beside = match config.beside.zip(weights.beside) {
            Some((spec, weights)) => {
                let kept = Kept { layer: kept.further, further: kept.further + 1, ..*kept };
                let mixed = mixed[&weights.output().0];
                Some(Box::new(LinearAttention::new(backend, work, spec, weights, mixed, kept)?))
            }
            None => None,
        };
        let mixed = mixed[&weights.mixer.output().0];
        let mixer = match (&config.mixer, weights.mixer) {
            (config::Mixer::Attention(spec), MixerWeights::Attention(weights)) => {
                Mixer::Attention(Box::new(Attention::new(backend, work, *spec, weights, mixed, *kept)?))
            }
            (config::Mixer::ShortConv(spec), MixerWeights::ShortConv(weights)) => {
                Mixer::ShortConv(ShortConv::new(backend, work, *spec, weights, mixed, *kept)?)
            }
            (config::Mixer::Linear(spec), MixerWeights::Linear(weights)) => {
                Mixer::Linear(Box::new(LinearAttention::new(backend, work, *spec, weights, mixed, *kept)?))
            }
            _ => return Err(Error::bad_file("a layer whose weights are another mixer's")),
        };
        let ffn = match (&config.ffn, weights.ffn) {
            (config::Ffn::None, FfnWeights::None) => Ffn::None,
            (config::Ffn::Dense(spec), FfnWeights::Dense(weights)) => {
                Ffn::Dense(Dense::new(backend, work, *spec, weights, &fed)?)
            }
            (config::Ffn::Experts(spec), FfnWeights::Experts(weights)) => {
                Ffn::Experts(Box::new(Experts::new(backend, work, *spec, weights, &fed)?))
            }
            _ => {
                return Err(Error::invalid_request("weights of another kind of feed-forward"));
            }
        };
        let LayerWeights { mixer_norm, mixer_post_norm, ffn_norm, ffn_post_norm, gain, .. } = *weights;
        let (normed, per_layer) = (normed[&(1, dim)], None);
        built.push(Layer {
            mixer_norm,
            mixer_post_norm,
            ffn_norm,
            ffn_post_norm,
            per_layer,
            gain,
            normed,
            mixer,
            beside,
            ffn,
        });
    }
    Ok(built)
}
