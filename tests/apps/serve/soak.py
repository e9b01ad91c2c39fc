"""Random traffic of many clients, some of whom go away, read slowly, stall or send nonsense: nothing leaks, nothing gets stuck, and
every answer that was waited for is whole or says what is wrong.

    FOREWORD_URL=http://127.0.0.1:8080 FOREWORD_PID=123 python soak.py        SOAK_SECONDS=1800 SOAK_CLIENTS=64 for more
"""

import asyncio
import json
import os
import random
import time

from wire import Server, is_complete, parsed

SECONDS = float(os.environ.get("SOAK_SECONDS", 20))
CLIENTS = int(os.environ.get("SOAK_CLIENTS", 64))
SEED = int(os.environ.get("SOAK_SEED", random.randrange(10**6)))
# How much memory may grow behind the first half, as a share: caches fill in the first one.
GROWTH = 0.02
WORDS = "the keeper counted ships that passed in fog and wrote their names into a large book which nobody read".split()


def body(random, stream):
    """A request, its address, and whether its answer is a stream."""
    text = " ".join(random.choices(WORDS, k=random.choice((3, 30, 300))))
    common = {"model": "smol", "max_tokens": random.choice((1, 8, 40)), "stream": stream}
    return random.choice([
        ("/v1/chat/completions", {**common, "messages": [{"role": "user", "content": text}], "n": random.choice((1, 1, 3))}),
        ("/v1/chat/completions", {**common, "messages": [{"role": "user", "content": text}], "response_format": {"type": "json_object"}}),
        ("/v1/completions", {**common, "prompt": text}),
        ("/v1/messages", {**common, "messages": [{"role": "user", "content": text}]}),
        ("/v1/responses", {"model": "smol", "max_output_tokens": 8, "stream": stream, "input": text}),
        ("/v1/embeddings", {"model": "bert", "input": [text] * random.choice((1, 5))}),
    ])


class Client:
    def __init__(self, server, seed, counts, failures):
        self.server, self.random, self.counts, self.failures = server, random.Random(seed), counts, failures

    async def run(self, ends):
        kinds = [self.whole] * 6 + [self.slow, self.leaves, self.leaves, self.stalls, self.oversized, self.nonsense]
        while time.monotonic() < ends:
            kind = self.random.choice(kinds)
            try:
                await asyncio.wait_for(kind(), 300)
                self.counts[kind.__name__] = self.counts.get(kind.__name__, 0) + 1
            except Exception as error:
                self.failures.append(f"{kind.__name__}: {error!r}")

    async def open(self, stream=None):
        stream = self.random.random() < 0.6 if stream is None else stream
        path, asked = body(self.random, stream)
        data = json.dumps(asked).encode()
        reader, writer = await self.server.connect()
        writer.write(self.server.head("POST", path, len(data)) + data)
        return reader, writer, bool(asked.get("stream"))

    async def whole(self):
        reader, writer, stream = await self.open()
        self.check(await reader.read(), stream)
        writer.close()

    async def slow(self):
        reader, writer, stream = await self.open(True)
        pieces = []
        while piece := await reader.read(200):
            pieces.append(piece)
            await asyncio.sleep(0.02)
        self.check(b"".join(pieces), stream)
        writer.close()

    def check(self, answer, stream):
        status, text = parsed(answer)
        assert status in (200, 429, 503), (status, text[:300])
        assert is_complete(status, text, stream), text[-300:]

    async def leaves(self):
        reader, writer, _ = await self.open()
        try:
            await asyncio.wait_for(reader.read(self.random.choice((1, 400))), self.random.random())
        except TimeoutError:
            pass
        writer.transport.abort()

    async def stalls(self):
        """Half a request, for a while."""
        _, writer = await self.server.connect()
        writer.write(self.server.head("POST", "/v1/completions", 1000)[: self.random.randrange(1, 120)])
        await asyncio.sleep(self.random.random())
        writer.transport.abort()

    async def oversized(self):
        try:
            status, _ = await self.server.ask("POST", "/v1/completions", b'{"prompt": "' + b"x" * (5 << 20))
        except ConnectionError:
            # It does not read what it refuses.
            return
        assert status == 413, status

    async def nonsense(self):
        data = bytes(self.random.randrange(256) for _ in range(self.random.randrange(1, 300)))
        status, _ = await self.server.ask("POST", "/v1/chat/completions", data)
        assert status == 400, status


def resident():
    """Megabytes of the server's memory."""
    with open(f"/proc/{os.environ['FOREWORD_PID']}/status") as file:
        return next(int(line.split()[1]) / 1000 for line in file if line.startswith("VmRSS"))


async def main():
    server = Server(os.environ["FOREWORD_URL"])
    counts, failures, memory = {}, [], []
    ends = time.monotonic() + SECONDS

    async def watch():
        while time.monotonic() < ends:
            memory.append(resident())
            await asyncio.sleep(max(0.2, SECONDS / 200))

    await asyncio.gather(watch(), *(Client(server, f"{SEED} {i}", counts, failures).run(ends) for i in range(CLIENTS)))
    stuck = await server.idle()
    half = len(memory) // 2
    before, after = max(memory[half // 2 : half], default=0), max(memory[half:], default=0)
    print(f"soak: seed {SEED}, {CLIENTS} clients, {SECONDS:.0f} s, {counts}; memory {before:.0f} MB, then {after:.0f} MB at most")
    for failure in failures[:10]:
        print(f"FAILED: {failure}")
    assert not failures and not stuck, stuck
    # In a short run, caches still fill.
    assert SECONDS < 300 or after <= before * (1 + GROWTH), "memory grows"


asyncio.run(main())
