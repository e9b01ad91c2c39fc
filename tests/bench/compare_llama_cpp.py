#!/usr/bin/env python3
"""Foreword beside llama.cpp on this machine: the same files, the same threads, in turns.

    cargo build --release
    tests/bench/compare_llama_cpp.py [--models smollm2-135m gemma3-270m] [--threads 1 2] [--rounds 3]

Every round runs `foreword bench` and then llama.cpp, so that both meet the same weather on a shared machine; the table has
the medians over the rounds and the ratio of each round's pair. llama.cpp comes from `pip install llama-cpp-python` into a
virtual environment of its own (built for this CPU), or from a script of yours: `--peer SCRIPT` is run as
`SCRIPT FILE --threads N --prompt P --gen G --reps R` and prints one JSON line with prefill_tok_s and decode_tok_s.
Raw results go to standard output behind the table, one JSON line each.
"""
import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
import venv
from pathlib import Path

HERE = Path(__file__).resolve()
ROOT = HERE.parents[2]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--foreword", default=str(ROOT / "target/release/foreword"))
    parser.add_argument("--models", nargs="+", default=["smollm2-135m", "gemma3-270m"])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--gen", type=int, default=128)
    parser.add_argument("--reps", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer", help="script that measures the peer; by default this one in its own environment")
    parser.add_argument("--measure-peer", metavar="FILE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure_peer:
        return measure_peer(options.measure_peer, options)
    peer = [sys.executable, options.peer] if options.peer else [environment(), str(HERE), "--measure-peer"]
    raw = []
    rows = []
    for model in options.models:
        file = subprocess.check_output([options.foreword, "pull", model], text=True).strip()
        for threads in options.threads:
            pairs = []
            for _ in range(options.rounds):
                ours = run([options.foreword, "bench", file, "--threads", threads, "--prompt-tokens", options.prompt,
                            "--gen-tokens", options.gen, "--reps", options.reps, "--json"])
                theirs = run([*peer, file, "--threads", threads, "--prompt", options.prompt, "--gen", options.gen,
                              "--reps", options.reps])
                pairs.append((ours, theirs))
                raw += [{"program": "foreword", **ours}, {"program": "llama.cpp", "threads": threads, **theirs}]
            rows += [row(model, threads, name, key, pairs)
                     for name, key in [(f"prefill {options.prompt}", "prefill_tok_s"), (f"decode {options.gen}", "decode_tok_s")]]
    commit = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    print(f"Commit {commit.stdout.strip()}, {cpu()}, {os.cpu_count()} cores, {options.rounds} rounds of {options.reps} repetitions.\n")
    print("| model | threads | what | Foreword tok/s | llama.cpp tok/s | ratio (least to greatest) |")
    print("|---|---|---|---|---|---|")
    print("\n".join(rows) + "\n")
    print("\n".join(json.dumps(line) for line in raw))


def run(command):
    output = subprocess.check_output([str(part) for part in command], text=True)
    return json.loads(output.strip().splitlines()[-1])


def row(model, threads, name, key, pairs):
    ours, theirs = (statistics.median(pair[side][key] for pair in pairs) for side in (0, 1))
    ratios = sorted(a[key] / b[key] for a, b in pairs)
    middle = statistics.median(ratios)
    return f"| {model} | {threads} | {name} | {ours:.1f} | {theirs:.1f} | **{middle:.2f}** ({ratios[0]:.2f} to {ratios[-1]:.2f}) |"


def cpu():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def environment():
    """Python of a virtual environment that has llama-cpp-python."""
    folder = ROOT / "target/llama.cpp"
    python = folder / "bin/python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    if subprocess.run([python, "-c", "import llama_cpp"], capture_output=True).returncode:
        subprocess.run([python, "-m", "pip", "install", "--quiet", "llama-cpp-python"], check=True, stdout=sys.stderr)
    return str(python)


def measure_peer(file, options):
    import ctypes

    import llama_cpp as api

    quiet = api.llama_log_callback(lambda level, text, data: None)
    api.llama_log_set(quiet, ctypes.c_void_p(0))
    api.llama_backend_init()
    threads = options.threads[0]
    model_options = api.llama_model_default_params()
    model_options.n_gpu_layers = 0
    model = api.llama_model_load_from_file(file.encode(), model_options)
    context_options = api.llama_context_default_params()
    context_options.n_ctx = max(options.prompt, options.gen) + 64
    context_options.n_batch = context_options.n_ubatch = options.prompt
    context_options.n_threads = context_options.n_threads_batch = threads
    context = api.llama_init_from_model(model, context_options)
    if not context:
        sys.exit("error: llama.cpp cannot load the model")
    n_vocab = api.llama_vocab_n_tokens(api.llama_model_get_vocab(model))

    def speed(n_tokens, step):
        """Tokens a second for a sequence from an empty cache, `step` tokens a call."""
        api.llama_memory_clear(api.llama_get_memory(context), True)
        tokens = (api.llama_token * n_tokens)(*[(7919 * i + 13) % n_vocab for i in range(n_tokens)])
        begun = time.perf_counter()
        for at in range(0, n_tokens, step):
            n = min(step, n_tokens - at)
            part = (api.llama_token * n)(*tokens[at:at + n])
            if api.llama_decode(context, api.llama_batch_get_one(part, n)):
                sys.exit("error: llama.cpp failed")
            api.llama_synchronize(context)
        return n_tokens / (time.perf_counter() - begun)

    speed(options.prompt, options.prompt)
    speed(16, 1)
    prefill = statistics.median(speed(options.prompt, options.prompt) for _ in range(options.reps))
    decode = statistics.median(speed(options.gen, 1) for _ in range(options.reps))
    print(json.dumps({"version": api.__version__, "prefill_tok_s": prefill, "decode_tok_s": decode}))


if __name__ == "__main__":
    main()
