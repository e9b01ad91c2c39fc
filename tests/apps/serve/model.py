"""Copies a model file with another chat template, one that has tools: model.py FROM TO"""

import struct
import sys
from pathlib import Path

NAME = b"tokenizer.chat_template"
template = (Path(__file__).resolve().parents[3] / "native/tests/serve/template.jinja").read_bytes()

with open(sys.argv[1], "rb") as file:
    data = file.read()
# An old entry gets another name, the new one such a length that the tensors' places stay aligned.
data = data.replace(NAME, NAME[:-1] + b"_", 1)
template += b"{#" + b" " * (60 - (8 + len(NAME) + 4 + 8 + len(template)) % 32) + b"#}"
entry = struct.pack("<Q", len(NAME)) + NAME + struct.pack("<IQ", 8, len(template)) + template
(entries,) = struct.unpack_from("<Q", data, 16)
with open(sys.argv[2], "wb") as file:
    file.write(data[:16] + struct.pack("<Q", entries + 1) + entry + data[24:])
