//! Which architectures are converted: a row each, from the names of Hugging Face's checkpoints to GGUF's.

use Change::{AddOne, Flatten, Interleave, Keep};
use Dim::{Context, Ff, Head, Kv, One, Q, Taps, Three, Types, Vocab, Width};

/// One architecture.
pub(super) struct Family {
    /// Names in `architectures` of `config.json`.
    pub(super) classes: &'static [&'static str],
    /// `general.architecture`.
    pub(super) name: &'static str,
    /// What transformers takes for keys that `config.json` leaves out.
    pub(super) defaults: &'static [(&'static str, f64)],
    /// `num_key_value_heads` and `head_dim`, where they are left out, follow from the number of heads, and are written.
    pub(super) derives_heads: bool,
    /// Base of the rotary embedding, and of that of layers with a window, where `config.json` has none.
    pub(super) rope: Option<(f64, Option<f64>)>,
    /// Keys besides those that all have.
    pub(super) keys: &'static [Key],
    /// A text is one vector: the folder says how it is made.
    pub(super) pools: bool,
    /// Tokens see what is behind them.
    pub(super) is_encoder: bool,
    /// What a name may begin with that says nothing.
    pub(super) prefix: &'static str,
    /// Tensors that no text needs, by how their names begin.
    pub(super) skipped: &'static [&'static str],
    /// Tensors besides those of layers.
    pub(super) tensors: &'static [Row],
    /// How the names of layers' tensors begin, in front of the number.
    pub(super) layer: &'static str,
    /// Tensors of layers.
    pub(super) layers: &'static [Row],
}

/// A key of the metadata, and what it is called in `config.json`.
pub(super) struct Key {
    /// Behind the architecture's name, or as a whole where it begins with `tokenizer.`.
    pub(super) to: &'static str,
    pub(super) from: &'static [&'static str],
    pub(super) kind: Kind,
}

/// What a key holds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Count,
    Float,
}

/// A tensor's names without `.weight` and `.bias`.
pub(super) struct Row {
    pub(super) from: &'static str,
    pub(super) to: &'static str,
    /// Shape of the weights as they are stored; a bias has the first of these sizes.
    pub(super) shape: &'static [Dim],
    pub(super) change: Change,
    /// A model without it is not whole.
    pub(super) is_required: bool,
}

/// A size that `config.json` knows.
#[derive(Clone, Copy)]
pub(super) enum Dim {
    Width,
    /// Of all heads' queries.
    Q,
    /// Of all heads' keys, or values.
    Kv,
    /// Of a head.
    Head,
    Ff,
    Vocab,
    Context,
    /// Kinds of segments of a text (BERT).
    Types,
    /// Of a convolution.
    Taps,
    One,
    /// Three times the width.
    Three,
}

/// What becomes of weights besides their type.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Keep,
    /// Rows of each head's first and second half take turns, as GGUF's rotation of adjacent pairs wants them.
    Interleave,
    /// A norm that multiplies by 1 + w.
    AddOne,
    /// The dimension in the middle is 1 and goes.
    Flatten,
}

const fn row(from: &'static str, to: &'static str, shape: &'static [Dim], change: Change) -> Row {
    Row { from, to, shape, change, is_required: true }
}

const fn optional(from: &'static str, to: &'static str, shape: &'static [Dim], change: Change) -> Row {
    Row { from, to, shape, change, is_required: false }
}

const fn count(to: &'static str, from: &'static [&'static str]) -> Key {
    Key { to, from, kind: Kind::Count }
}

const fn float(to: &'static str, from: &'static [&'static str]) -> Key {
    Key { to, from, kind: Kind::Float }
}

/// Keys that all have, where `config.json` does.
pub(super) const KEYS: &[Key] = &[
    count("context_length", &["max_position_embeddings"]),
    count("embedding_length", &["hidden_size"]),
    count("feed_forward_length", &["intermediate_size"]),
    count("attention.head_count", &["num_attention_heads"]),
    count("attention.head_count_kv", &["num_key_value_heads"]),
    float("attention.layer_norm_rms_epsilon", &["rms_norm_eps", "norm_eps"]),
    float("attention.layer_norm_epsilon", &["layer_norm_eps"]),
    count("attention.key_length", &["head_dim"]),
    count("attention.value_length", &["head_dim"]),
];

const VOCAB_SIZE: Key = count("vocab_size", &["vocab_size"]);

/// What stands in front of the first layer of a decoder and behind the last one.
const DECODER: &[Row] = &[
    row("embed_tokens", "token_embd", &[Vocab, Width], Keep),
    row("norm", "output_norm", &[Width], Keep),
    optional("lm_head", "output", &[Vocab, Width], Keep),
];

const QWEN_LAYERS: &[Row] = &[
    row("input_layernorm", "attn_norm", &[Width], Keep),
    row("self_attn.q_proj", "attn_q", &[Q, Width], Keep),
    row("self_attn.k_proj", "attn_k", &[Kv, Width], Keep),
    row("self_attn.v_proj", "attn_v", &[Kv, Width], Keep),
    row("self_attn.o_proj", "attn_output", &[Width, Q], Keep),
    optional("self_attn.q_norm", "attn_q_norm", &[Head], Keep),
    optional("self_attn.k_norm", "attn_k_norm", &[Head], Keep),
    row("post_attention_layernorm", "ffn_norm", &[Width], Keep),
    row("mlp.gate_proj", "ffn_gate", &[Ff, Width], Keep),
    row("mlp.up_proj", "ffn_up", &[Ff, Width], Keep),
    row("mlp.down_proj", "ffn_down", &[Width, Ff], Keep),
];

const LLAMA: Family = Family {
    classes: &["LlamaForCausalLM", "LlamaModel"],
    name: "llama",
    defaults: &[("max_position_embeddings", 2048.0), ("rms_norm_eps", 1e-6), ("vocab_size", 32000.0)],
    derives_heads: true,
    rope: Some((10_000.0, None)),
    keys: &[VOCAB_SIZE, count("rope.dimension_count", &["head_dim"])],
    pools: false,
    is_encoder: false,
    prefix: "model.",
    skipped: &[],
    tensors: DECODER,
    layer: "layers.",
    layers: &[
        row("input_layernorm", "attn_norm", &[Width], Keep),
        row("self_attn.q_proj", "attn_q", &[Q, Width], Interleave),
        row("self_attn.k_proj", "attn_k", &[Kv, Width], Interleave),
        row("self_attn.v_proj", "attn_v", &[Kv, Width], Keep),
        row("self_attn.o_proj", "attn_output", &[Width, Q], Keep),
        row("post_attention_layernorm", "ffn_norm", &[Width], Keep),
        row("mlp.gate_proj", "ffn_gate", &[Ff, Width], Keep),
        row("mlp.up_proj", "ffn_up", &[Ff, Width], Keep),
        row("mlp.down_proj", "ffn_down", &[Width, Ff], Keep),
    ],
};

const QWEN2: Family = Family {
    classes: &["Qwen2ForCausalLM", "Qwen2Model"],
    name: "qwen2",
    defaults: &[
        ("max_position_embeddings", 32768.0),
        ("rms_norm_eps", 1e-6),
        ("vocab_size", 151_936.0),
        ("num_key_value_heads", 32.0),
    ],
    derives_heads: false,
    keys: &[],
    pools: true,
    layers: QWEN_LAYERS,
    ..LLAMA
};

const QWEN3: Family = Family {
    classes: &["Qwen3ForCausalLM", "Qwen3Model"],
    name: "qwen3",
    defaults: &[
        ("max_position_embeddings", 32768.0),
        ("rms_norm_eps", 1e-6),
        ("vocab_size", 151_936.0),
        ("num_key_value_heads", 32.0),
        ("head_dim", 128.0),
    ],
    ..QWEN2
};

const GEMMA3: Family = Family {
    classes: &["Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"],
    name: "gemma3",
    defaults: &[
        ("vocab_size", 262_208.0),
        ("hidden_size", 2304.0),
        ("intermediate_size", 9216.0),
        ("num_hidden_layers", 26.0),
        ("num_attention_heads", 8.0),
        ("num_key_value_heads", 4.0),
        ("head_dim", 256.0),
        ("max_position_embeddings", 131_072.0),
        ("rms_norm_eps", 1e-6),
        ("sliding_window", 4096.0),
    ],
    derives_heads: false,
    rope: Some((1_000_000.0, Some(10_000.0))),
    keys: &[
        count("attention.sliding_window", &["sliding_window"]),
        float("final_logit_softcapping", &["final_logit_softcapping"]),
    ],
    skipped: &["vision_tower.", "multi_modal_projector.", "vision_model."],
    tensors: &[
        row("embed_tokens", "token_embd", &[Vocab, Width], Keep),
        row("norm", "output_norm", &[Width], AddOne),
        optional("lm_head", "output", &[Vocab, Width], Keep),
    ],
    layers: &[
        row("input_layernorm", "attn_norm", &[Width], AddOne),
        row("self_attn.q_proj", "attn_q", &[Q, Width], Keep),
        row("self_attn.k_proj", "attn_k", &[Kv, Width], Keep),
        row("self_attn.v_proj", "attn_v", &[Kv, Width], Keep),
        row("self_attn.o_proj", "attn_output", &[Width, Q], Keep),
        row("self_attn.q_norm", "attn_q_norm", &[Head], AddOne),
        row("self_attn.k_norm", "attn_k_norm", &[Head], AddOne),
        row("post_attention_layernorm", "post_attention_norm", &[Width], AddOne),
        row("pre_feedforward_layernorm", "ffn_norm", &[Width], AddOne),
        row("mlp.gate_proj", "ffn_gate", &[Ff, Width], Keep),
        row("mlp.up_proj", "ffn_up", &[Ff, Width], Keep),
        row("mlp.down_proj", "ffn_down", &[Width, Ff], Keep),
        row("post_feedforward_layernorm", "post_ffw_norm", &[Width], AddOne),
    ],
    ..LLAMA
};

const GEMMA_EMBEDDING: Family = Family {
    classes: &["Gemma3TextModel"],
    name: "gemma-embedding",
    keys: &[count("attention.sliding_window", &["sliding_window"])],
    pools: true,
    ..GEMMA3
};

const LFM2: Family = Family {
    classes: &["Lfm2ForCausalLM"],
    name: "lfm2",
    defaults: &[
        ("vocab_size", 65536.0),
        ("hidden_size", 2560.0),
        ("intermediate_size", 12288.0),
        ("num_hidden_layers", 32.0),
        ("num_attention_heads", 32.0),
        ("num_key_value_heads", 8.0),
        ("max_position_embeddings", 128_000.0),
        ("norm_eps", 1e-5),
        ("conv_L_cache", 3.0),
        ("block_multiple_of", 256.0),
        ("block_ffn_dim_multiplier", 1.0),
    ],
    derives_heads: false,
    rope: Some((1_000_000.0, None)),
    keys: &[VOCAB_SIZE, count("shortconv.l_cache", &["conv_L_cache"])],
    tensors: &[
        row("embed_tokens", "token_embd", &[Vocab, Width], Keep),
        // Of the last layer's output, whatever it is called.
        row("embedding_norm", "token_embd_norm", &[Width], Keep),
        optional("lm_head", "output", &[Vocab, Width], Keep),
    ],
    layers: &[
        row("operator_norm", "attn_norm", &[Width], Keep),
        optional("conv.in_proj", "shortconv.in_proj", &[Three, Width], Keep),
        optional("conv.conv", "shortconv.conv", &[Width, One, Taps], Flatten),
        optional("conv.out_proj", "shortconv.out_proj", &[Width, Width], Keep),
        optional("self_attn.q_proj", "attn_q", &[Q, Width], Keep),
        optional("self_attn.k_proj", "attn_k", &[Kv, Width], Keep),
        optional("self_attn.v_proj", "attn_v", &[Kv, Width], Keep),
        optional("self_attn.out_proj", "attn_output", &[Width, Q], Keep),
        optional("self_attn.q_layernorm", "attn_q_norm", &[Head], Keep),
        optional("self_attn.k_layernorm", "attn_k_norm", &[Head], Keep),
        row("ffn_norm", "ffn_norm", &[Width], Keep),
        row("feed_forward.w1", "ffn_gate", &[Ff, Width], Keep),
        row("feed_forward.w3", "ffn_up", &[Ff, Width], Keep),
        row("feed_forward.w2", "ffn_down", &[Width, Ff], Keep),
    ],
    ..LLAMA
};

const BERT: Family = Family {
    classes: &["BertModel", "BertForMaskedLM"],
    name: "bert",
    defaults: &[
        ("vocab_size", 30522.0),
        ("hidden_size", 768.0),
        ("num_hidden_layers", 12.0),
        ("num_attention_heads", 12.0),
        ("intermediate_size", 3072.0),
        ("max_position_embeddings", 512.0),
        ("type_vocab_size", 2.0),
        ("layer_norm_eps", 1e-12),
    ],
    derives_heads: false,
    rope: None,
    keys: &[count("tokenizer.ggml.token_type_count", &["type_vocab_size"])],
    pools: true,
    is_encoder: true,
    prefix: "bert.",
    // Numbers of positions, and heads for training.
    skipped: &["embeddings.position_ids", "pooler.", "cls.predictions", "cls.seq_relationship"],
    tensors: &[
        row("embeddings.word_embeddings", "token_embd", &[Vocab, Width], Keep),
        row("embeddings.token_type_embeddings", "token_types", &[Types, Width], Keep),
        row("embeddings.position_embeddings", "position_embd", &[Context, Width], Keep),
        row("embeddings.LayerNorm", "token_embd_norm", &[Width], Keep),
    ],
    layer: "encoder.layer.",
    layers: &[
        row("attention.self.query", "attn_q", &[Width, Width], Keep),
        row("attention.self.key", "attn_k", &[Width, Width], Keep),
        row("attention.self.value", "attn_v", &[Width, Width], Keep),
        row("attention.output.dense", "attn_output", &[Width, Width], Keep),
        row("attention.output.LayerNorm", "attn_output_norm", &[Width], Keep),
        row("intermediate.dense", "ffn_up", &[Ff, Width], Keep),
        row("output.dense", "ffn_down", &[Width, Ff], Keep),
        row("output.LayerNorm", "layer_output_norm", &[Width], Keep),
    ],
};

pub(super) const FAMILIES: &[Family] = &[LLAMA, QWEN2, QWEN3, GEMMA3, GEMMA_EMBEDDING, LFM2, BERT];
