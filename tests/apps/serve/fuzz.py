"""Throws broken and strange requests at a server: it must answer each with a status that is not its own fault, and live.

    FOREWORD_URL=http://127.0.0.1:8080 python fuzz.py        FUZZ_SECONDS=600 FUZZ_SEED=1 for more
"""

import asyncio
import copy
import json
import os
import random
import time

from wire import Server, parsed

SECONDS = float(os.environ.get("FUZZ_SECONDS", 15))
SEED = int(os.environ.get("FUZZ_SEED", random.randrange(10**6)))
USER = [{"role": "user", "content": "Hi"}]
TOOL = {"name": "add", "parameters": {"type": "object", "properties": {"x": {"type": "integer"}}}}
SEEDS = {
    "/v1/chat/completions": {
        "model": "smol", "messages": [{"role": "system", "content": "Be brief."}, *USER, {"role": "assistant", "content": "Hello"}, *USER],
        "max_tokens": 3, "temperature": 0.5, "top_p": 0.9, "n": 2, "stop": ["a"], "seed": 1, "stream": False, "logprobs": True, "top_logprobs": 2,
        "logit_bias": {"5": 1}, "tools": [{"type": "function", "function": TOOL}], "tool_choice": "auto", "response_format": {"type": "text"},
        "stream_options": {"include_usage": True}, "reasoning_effort": "low", "min_p": 0.1, "top_k": 5, "dry_multiplier": 0.8,
    },
    "/v1/completions": {"model": "smol", "prompt": ["One", "Two"], "max_tokens": 3, "echo": False, "suffix": None, "best_of": 1, "regex": "[a-z]{1,5}", "prediction": None},
    "/v1/responses": {"model": "smol", "input": USER, "instructions": "Be brief.", "max_output_tokens": 3, "tools": [{"type": "function", **TOOL}], "text": {"format": {"type": "text"}}, "store": True},
    "/v1/messages": {"model": "smol", "messages": USER, "system": [{"type": "text", "text": "Be brief."}], "max_tokens": 3, "tools": [{"name": "add", "input_schema": TOOL["parameters"]}], "stop_sequences": ["a"]},
    "/v1/messages/count_tokens": {"model": "smol", "messages": USER},
    "/v1/embeddings": {"model": "bert", "input": ["a", "b"], "encoding_format": "float", "dimensions": 8},
    "/v1/rerank": {"model": "bert", "query": "a", "documents": ["b", {"text": "c"}], "top_n": 1},
    "/tokenize": {"model": "smol", "content": "Hi", "add_special": True, "parse_special": False},
}
STRANGE = [
    None, True, False, 0, -1, 1, 0.1, -0.0, 1e308, 1e-308, 2**31, 2**53, 2**63, 2**64, -(2**63), 10**30, "", " ", "a", "\0", "\ud800", "é" * 100, "<|im_end|>", "{{", "{% for %}",
    "(a*)*b", "[^", "x" * 5000, [], {}, [[]], [None], {"": None}, [{}], {"type": "object"}, {"type": "json_schema"}, {"type": "json_schema", "json_schema": {"name": "x", "schema": {"$ref": "#"}}},
    {"type": "grammar", "syntax": "lark", "grammar": "start: start"}, "assistant", "tool", "required", {"type": "function", "function": {"name": "add"}}, [[1, 2]], ["a"] * 50,
]


def paths_in(value, path=()):
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from paths_in(inner, (*path, key))


def changed(random, body):
    """A body with some of its values replaced, removed, doubled or nested."""
    body = copy.deepcopy(body)
    for _ in range(random.choice((1, 1, 2, 4))):
        path = random.choice(list(paths_in(body)))
        if not path:
            if random.random() < 0.5 and isinstance(body, dict):
                body[random.choice(["stream", "n", "grammar", "regex", "prompt", "messages", "input", "x", "thinking", "continue_final_message", "previous_response_id"])] = random.choice(STRANGE)
            continue
        *way, last = path
        place = body
        for key in way:
            place = place[key]
        kind = random.randrange(4)
        if kind == 0 and isinstance(place, dict):
            del place[last]
        elif kind == 1:
            for _ in range(random.choice((1, 3, 140))):
                place[last] = [place[last]] if random.random() < 0.5 else {"content": place[last]}
        elif kind == 2 and isinstance(place, list):
            place.extend(copy.deepcopy(place[:5]))
        else:
            place[last] = copy.deepcopy(random.choice(STRANGE))
    return body


def torn(random, data):
    """Bytes with some of them replaced, removed or repeated."""
    data = bytearray(data)
    for _ in range(random.choice((1, 2, 8))):
        at = random.randrange(len(data) + 1)
        kind = random.randrange(3)
        if kind == 0 and at < len(data):
            data[at] = random.randrange(256)
        elif kind == 1:
            del data[at : at + random.randrange(1, 20)]
        else:
            data[at:at] = bytes(random.randrange(256) for _ in range(random.randrange(1, 20)))
    return bytes(data)


def request(random, server):
    """Bytes of a request, and whether it is whole HTTP."""
    path = random.choice(list(SEEDS))
    body = json.dumps(changed(random, SEEDS[path])).encode(errors="surrogatepass")
    if random.random() < 0.2:
        body = torn(random, body)
    method = random.choice(["POST"] * 12 + ["GET", "PUT", "HEAD", "OPTIONS", "DELETE"])
    if random.random() < 0.1:
        path = random.choice(["/", "/v1", "/v1/models/x%00", "/v1/responses/../x", "//", "/%ff", "/metrics?x", "/v1/models", "/x" * 2000, "/health", "*"])
    whole = server.head(method, path, len(body)) + body
    if random.random() < 0.15:
        return torn(random, whole), False
    return whole, method != "HEAD"


async def throw(server, random, failures, counts):
    data, is_http = request(random, server)
    reader, writer = await server.connect()
    try:
        writer.write(data)
        if not is_http:
            # What waits for more than was said is not waited for.
            writer.write_eof()
        answer = await asyncio.wait_for(reader.read(), 120)
    except (ConnectionError, BrokenPipeError):
        return
    except TimeoutError:
        return failures.append(("no answer", data))
    finally:
        writer.close()
    if not is_http:
        return
    try:
        status, body = parsed(answer)
    except AssertionError as error:
        return failures.append((str(error), data))
    counts[status] = counts.get(status, 0) + 1
    if status >= 500 and status not in (501, 503):
        failures.append((f"status {status}: {body[:300]!r}", data))


async def main():
    server = Server(os.environ["FOREWORD_URL"])
    failures, counts = [], {}
    ends = time.monotonic() + SECONDS

    async def worker(i):
        own = random.Random(f"{SEED} {i}")
        while time.monotonic() < ends and len(failures) < 5:
            await throw(server, own, failures, counts)

    await asyncio.gather(*(worker(i) for i in range(8)))
    stuck = await server.idle()
    status, _ = await server.ask("GET", "/health")
    print(f"fuzz: seed {SEED}, {sum(counts.values())} whole requests, by status {dict(sorted(counts.items()))}")
    for what, data in failures:
        print(f"FAILED: {what}\n    {data[:3000]!r}")
    assert not failures and not stuck and status == 200, (stuck, status)


asyncio.run(main())
