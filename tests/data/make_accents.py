#!/usr/bin/env python3
"""Makes src/tokenizer/accents.txt: what is left of characters under canonical decomposition without nonspacing marks. A line is
a character, what is left of it, and what is left of those behind it, one character each; or a space, a character, and the
several that are left of it. Hangul syllables are left out, which are decomposed by arithmetic.

usage: make_accents.py
"""
import pathlib, unicodedata

lines, before = [], None
for code in range(0x80, 0x110000):
    c = chr(code)
    bare = "".join(d for d in unicodedata.normalize("NFD", c) if unicodedata.category(d) != "Mn")
    if bare == c or 0xAC00 <= code <= 0xD7A3 or unicodedata.category(c) == "Mn":
        continue
    if len(bare) != 1:
        lines.append(" " + c + bare)
    elif before == code - 1:
        lines[-1] += bare
    else:
        lines.append(c + bare)
    before = code if len(bare) == 1 else None
path = pathlib.Path(__file__).parents[2] / "src/tokenizer/accents.txt"
path.write_text("\n".join(lines))
print(len(lines), "lines, Unicode", unicodedata.unidata_version)
