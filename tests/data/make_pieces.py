#!/usr/bin/env python3
"""Makes references for two kinds of tokenizers, from small vocabularies: wordpiece.jsonl, by PyPI tokenizers with the words of
make_encoders.py; unigram.gguf and unigram.jsonl, by a model that PyPI sentencepiece trains here on our own notes, with a few
rules of normalization.

needs: pip install gguf numpy tokenizers sentencepiece
usage: make_pieces.py
"""
import json, pathlib, sys, tempfile
import gguf, sentencepiece, tokenizers
from make_encoders import WORDS

OUT = pathlib.Path(__file__).parent
TEXTS = [
    "", " ", "the dog runs", "The DOG\tRuns\n\nunaffable!", "unaffableunaffable", "un aff able", "the-dog,the.dog", "café naïve Ångström",
    "e\u0301te\u0301", "ÀÉÎÕÜçñ", "東京 tower 東", "a東b", "한국어", "run\u200bning", "a\u0000b\ufffdc", "running" * 15, "a" * 101, "a" * 100,
    "[CLS] the [SEP]", "don't", "ﬁne", "İstanbul", "\u00a0cat\u3000dog", "cats😀dogs", "x²", "$5.00?", "the  dog   s", "ß", "\u037e", "神",
    "  leading and trailing  ", "Ａｂｃ１２３", "½ cup", "a\u0327\u0301", "Zürich–Genève", "\u0130\u0131", "q\u0323\u0307",
]
RULES = {"Ａ": "A", "ｂ": "b", "ｃ": "c", "１": "1", "½": "1/2", "ﬁ": "fi", "é": "e\u0301", "\t": " ", "\n": " ", "\u00a0": " ", "\u3000": " ",
         "\u200b": "", "ab": "a", "abcd": "z", "２": "2", "３": "3"}


def write(path, model, tokens, types, scores=None, more=()):
    w = gguf.GGUFWriter(str(path), "none")
    w.add_tokenizer_model(model); w.add_token_list(tokens); w.add_token_types(types)
    if scores:
        w.add_token_scores(scores)
    for key, value in more:
        w.add_key_value(f"tokenizer.ggml.{key}", *value)
    w.write_header_to_file(); w.write_kv_data_to_file(); w.close()


def lines(name, encode):
    with open(OUT / name, "w") as f:
        for text in TEXTS:
            f.write(json.dumps({"text": text, "tokens": encode(text)}) + "\n")


def wordpiece():
    # BERT's own form: what goes on has ##, what begins has nothing.
    words = [w if w.startswith("[") else w[1:] if w.startswith("\u2581") else "##" + w for w in WORDS]
    # Of equal ones the first counts.
    vocabulary = {w: i for i, w in reversed(list(enumerate(words)))}
    t = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    t.normalizer = tokenizers.normalizers.BertNormalizer()
    t.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    lines("wordpiece.jsonl", lambda text: t.encode(text, add_special_tokens=False).ids)


def unigram():
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        corpus = [line for name in ("README.md", "ARCHITECTURE.md") for line in (OUT.parents[1] / name).read_text().splitlines() if line]
        (folder / "corpus").write_text("\n".join(corpus))
        hex_of = lambda text: " ".join(f"{ord(c):x}" for c in text)
        (folder / "rules.tsv").write_text("".join(f"{hex_of(a)}\t{hex_of(b)}\n" for a, b in sorted(RULES.items())))
        sentencepiece.SentencePieceTrainer.train(
            input=str(folder / "corpus"), model_prefix=str(folder / "m"), vocab_size=300, model_type="unigram", character_coverage=0.995,
            normalization_rule_tsv=str(folder / "rules.tsv"), user_defined_symbols=["##", "GGUF"], minloglevel=2, num_threads=1)
        p = sentencepiece.SentencePieceProcessor(model_file=str(folder / "m.model"))
        from sentencepiece import sentencepiece_model_pb2 as pb
        proto = pb.ModelProto(); proto.ParseFromString((folder / "m.model").read_bytes())
        # sentencepiece numbers the kinds as GGUF does, but for 4 and 5 and 6, which are the same too.
        kinds = [piece.type for piece in proto.pieces]
        charsmap = list(proto.normalizer_spec.precompiled_charsmap)
        more = [("unknown_token_id", (p.unk_id(), gguf.GGUFValueType.UINT32)), ("eos_token_id", (p.eos_id(), gguf.GGUFValueType.UINT32)),
                ("precompiled_charsmap", (charsmap, gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.UINT8))]
        write(OUT / "unigram.gguf", "t5", [piece.piece for piece in proto.pieces], kinds, [piece.score for piece in proto.pieces], more)
        lines("unigram.jsonl", lambda text: p.encode(text))


if __name__ == "__main__":
    wordpiece()
    unigram()
