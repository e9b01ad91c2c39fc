#!/usr/bin/env python3
"""llama.cpp's log-probabilities on the *dequantized* weights of SmolLM2, along the steps of the quantized golden file.

Quantized activations differ between implementations (and between llama.cpp's own builds, by up to 0.2 in a log-probability);
on plain floats everything else must agree, and this file holds that to four digits.

needs: pip install gguf numpy llama-cpp-python
usage: make_float_golden.py SmolLM2-135M-Instruct.Q4_1.gguf > smollm2-135m-instruct-f32-logprobs.jsonl
"""
import json, os, pathlib, sys, tempfile
import gguf, llama_cpp as lc, numpy as np

HERE = pathlib.Path(__file__).parent
reader = gguf.GGUFReader(sys.argv[1])
path = tempfile.NamedTemporaryFile(suffix=".gguf", delete=False).name
w = gguf.GGUFWriter(path, "llama")
for key, field in reader.fields.items():
    if key.startswith("GGUF.") or key == "general.architecture":
        continue
    if field.types[0] == gguf.GGUFValueType.ARRAY:
        w.add_array(key, field.contents())
    else:
        w.add_key_value(key, field.contents(), field.types[0])
for t in reader.tensors:
    w.add_tensor(t.name, gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float32).reshape([int(x) for x in reversed(t.shape)]))
w.write_header_to_file(); w.write_kv_data_to_file(); w.write_tensors_to_file(); w.close()

lc.llama_backend_init()
model = lc.llama_model_load_from_file(path.encode(), lc.llama_model_default_params())
p = lc.llama_context_default_params()
p.n_ctx, p.n_threads, p.n_threads_batch, p.type_k, p.type_v, p.flash_attn_type = 512, 1, 1, 0, 0, 0
ctx = lc.llama_init_from_model(model, p)
n_vocab = lc.llama_vocab_n_tokens(lc.llama_model_get_vocab(model))
for line in list(open(HERE / "smollm2-135m-instruct-q4_1-logprobs.jsonl"))[:4]:
    case = json.loads(line)
    lc.llama_memory_clear(lc.llama_get_memory(ctx), True)
    tokens, steps = case["prompt_tokens"], []
    for step in case["steps"]:
        array = (lc.llama_token * len(tokens))(*tokens)
        assert lc.llama_decode(ctx, lc.llama_batch_get_one(array, len(tokens))) == 0
        logits = np.ctypeslib.as_array(lc.llama_get_logits_ith(ctx, -1), shape=(n_vocab,)).astype(np.float64)
        logp = logits - logits.max()
        logp -= np.log(np.exp(logp).sum())
        top = np.argsort(-logp)[:10]
        steps.append({"id": step["id"], "logprob": round(float(logp[step["id"]]), 5), "top": [[int(i), round(float(logp[i]), 5)] for i in top]})
        tokens = [step["id"]]
    print(json.dumps({"prompt_tokens": case["prompt_tokens"], "steps": steps}, separators=(",", ":")))
os.unlink(path)
