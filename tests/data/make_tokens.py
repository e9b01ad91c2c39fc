"""Writes MODEL-tricky-tokens.jsonl: token ids of llama.cpp for strings that are easy to get wrong.

    make_tokens.py FOLDER    # with the model files of the registry

Needs PyPI llama-cpp-python; the committed files were made with 0.3.36. Left out is "</s>" for Gemma: there it is a
user-defined token, a tag of HTML, and llama.cpp overrides its type to stop at it.
"""

import json
import pathlib
import random
import sys

import llama_cpp

MODELS = {
    "SmolLM2-135M-Instruct.Q4_1.gguf": "smollm2-135m-instruct-q4_1",
    "gemma-3-270m-q4_k_m.gguf": "gemma-3-270m-q4_k_m",
}
PARTS = [
    "a", "B", "é", "ß", "ǅ", " ", "  ", "\n", "\r", "\t", "1", "23", "½", "٣", "漢", "字", "カ", "한", "ㄱ", "🎉", "👨‍👩‍👧",
    "\u0301", "\u200d", "\ufeff", "\u00a0", "\u3000", "\u2028", "\x00", "\x07", "\x7f", "\u0378", "\ue000", "'s", "'LL", "'", '"', "<",
    ">", "<|im_end|>", "<|im_start|>", "<end_of_turn>", "<bos>", "<unused5>", "<0x0A>", "▁", "▁▁", "<|endoftext|>", "[multimodal]",
    "<h1>", "</h1>", "-", "_", "/", "\\", "$", "€", "∑", "ह", "ि", "ไ", "ע", "\u0650", "🇩🇪", "\U000e0001", "\U0010ffff", "\u2126",
    "\u212a", "ﬁ", "the", " The", "ing", "\n\n\n", "\t\t\t", " " * 16, "x" * 40, "<unk>", "<pad>", "<s>",
]


def strings():
    rng = random.Random(7)
    yield from PARTS
    for n in (2, 3, 5, 8, 20):
        for _ in range(20):
            yield "".join(rng.choice(PARTS) for _ in range(n))
    for _ in range(40):
        points = (rng.randrange(0x20, 0x30000) for _ in range(6))
        yield "".join(chr(p) for p in points if not 0xD800 <= p < 0xE000)


def main():
    for file, stem in MODELS.items():
        model = llama_cpp.Llama(str(pathlib.Path(sys.argv[1]) / file), vocab_only=True, verbose=False)
        lines = []
        for text in strings():
            for special in (False, True):
                tokens = model.tokenize(text.encode(), add_bos=False, special=special)
                lines.append(json.dumps({"text": text, "parse_special": special, "tokens": tokens}))
        pathlib.Path(__file__).with_name(f"{stem}-tricky-tokens.jsonl").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
