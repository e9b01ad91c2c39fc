"""Writes splits.jsonl: words that pre-tokenizers cut text into, by the PyPI package regex.

The expressions are those of the models' own tokenizer.json (as llama.cpp quotes them), written for a full regex engine.
The committed file was made with regex 2026.11.15.
"""

import json
import pathlib
import re

import regex

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
TAIL = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SHORT = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
CJK = "[一-龥\u3040-ゟ゠-ヿ]+"
PUNCTUATION = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"""
DS3 = PUNCTUATION + r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# Too long to write twice.
SOURCE = pathlib.Path(__file__).parents[2].joinpath("src/tokenizer/split.rs").read_text()
LATIN = re.search(r'const LATIN: &str = "(.*)";', SOURCE)[1].replace("\\\\", "\\")
LATIN = re.sub(r"\\u{(\w+)}", lambda m: chr(int(m[1], 16)), LATIN)


def by_case(short, digits):
    lead = r"[^\r\n\p{L}\p{N}]?"
    return (f"{lead}{UPPER}*{LOWER}+{short}|{lead}{UPPER}+{LOWER}*{short}|{digits}"
            r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")


BLOOM = " ?[^(\\s|.,!?…。，、।۔،)]+"
STAGES = {
    "default": [r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"],
    "gpt-2": [GPT2],
    "smollm": [r"\p{N}", GPT2],
    "llama-bpe": [f"{SHORT}|{WORD}|\\p{{N}}{{1,3}}|{TAIL}"],
    "dbrx": [f"{SHORT}|{WORD}|\\p{{N}}{{1,3}}|{TAIL}"],
    "qwen2": [f"{SHORT}|{WORD}|\\p{{N}}|{TAIL}"],
    "qwen35": [SHORT + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"],
    "gpt-4o": [by_case(SHORT + "?", r"\p{N}{1,3}")],
    "tekken": [by_case("", r"\p{N}")],
    "deepseek-llm": [r"[\r\n]", LATIN, r"\s?[!-/:-~！-／：-～‘-‟　-。]+", r"\s+$", "[一-龥ࠀ-一가-\ud7ff]+", r"\p{N}+"],
    "deepseek-coder": [r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-\ud7ff]+", r"\p{N}"],
    "deepseek-v3": [r"\p{N}{1,3}", CJK, DS3],
    "spark2_5": [r"\p{N}{1,3}", CJK, PUNCTUATION + r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+|[\r\n]|\s+(?!\S)|\s+", r"\p{N}"],
    "youtu": ["[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|" + CJK, by_case(SHORT + "?", r"\p{N}")],
    "falcon": [r"[\p{P}\$\+<=>\^~\|`]+", GPT2, r"[0-9][0-9][0-9]"],
    "bloom": [BLOOM],
    "viking": [BLOOM, r"\p{N}"],
    "bailingmoe": [r"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"],
    "seed-coder": [SHORT + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+"],
    "ufakzeka": [f"{WORD}|\\p{{N}}|{TAIL}"],
    "gemma4": [r"[^\n]+|[\n]+"],
    "laguna": [r"[^\n]+|[\n]+", f"{SHORT}|{WORD}|\\p{{N}}|{TAIL}"],
    "minicpm5": [r"\p{N}{1,3}", f"{SHORT}|{WORD}|\\p{{N}}+|{TAIL}"],
}
TEXTS = [
    "Hello, world! I'm sure they'll say it's 'DON'T' we've you'RE he'd",
    "  two  spaces\n\n\tand \r\n lines  \n  x   ",
    "12 345 6789 1234567 ½ Ⅷ ٣٤٥٦ 3.14 x2y a1b22",
    "HTTPServer XMLHttpRequest iPhone ÉCOLEs ǅungla straße ΑΒΓδε МОСКВАград",
    "日本語のテキスト、漢字とカタカナ。 中文，字符！「引」 한국어 ㄱㄴ ㄅㄆ",
    "naïve café résumé e\u0301a\u0308 हिन्दी में ไทย العربية עִבְרִית",
    "🎉🎊 👨‍👩‍👧 ❤️ ∑∫ €5 $3 <tag a=\"b\">c</tag> #hash @me __init__ a->b /* x */ `q`",
    "!!!\n\n??? ... …  (a|b) [c]\\d {e}~^|\n//\n/path/to/file\r\n\r\n",
    "\u00a0nbsp\u2003em\u3000wide\u200bzero\u2028sep\u0085nel\x00\x07\x7f end\t\t",
    " ",
    "\n",
    "a",
    "\u0378\ue000\U000e0001 unassigned \ufffd\ufeff",
    "    def f(self, x: int) -> str:\n        return f'{x!r}'\n\n\n",
    "我 12 我們。  \n 'S 'T's'l'LL",
]


def cut(pattern, pieces):
    out = []
    for piece in pieces:
        done = 0
        for m in pattern.finditer(piece):
            if m.start() > done:
                out.append(piece[done:m.start()])
            if m.end() > m.start():
                out.append(m.group())
            done = m.end()
        if done < len(piece):
            out.append(piece[done:])
    return out


def main():
    lines = []
    for name, stages in STAGES.items():
        patterns = [regex.compile(stage.replace("$", r"\Z") if stage == r"\s+$" else stage) for stage in stages]
        for text in TEXTS:
            words = [text]
            for pattern in patterns:
                words = cut(pattern, words)
            lines.append(json.dumps({"pre": name, "text": text, "words": words}, ensure_ascii=False))
    pathlib.Path(__file__).with_name("splits.jsonl").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
