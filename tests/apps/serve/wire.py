"""HTTP by hand, for clients that misbehave, and what a server says of itself."""

import asyncio
import json
import re
from urllib.parse import urlsplit


class Server:
    def __init__(self, url, key="secret"):
        self.host, self.port = urlsplit(url).hostname, urlsplit(url).port
        self.key = key

    async def connect(self):
        return await asyncio.open_connection(self.host, self.port)

    def head(self, method, path, length, more=""):
        return f"{method} {path} HTTP/1.1\r\nhost: {self.host}\r\nx-api-key: {self.key}\r\ncontent-length: {length}\r\nconnection: close\r\n{more}\r\n".encode()

    async def ask(self, method, path, body=b"", more=""):
        """Status and body of a whole answer."""
        reader, writer = await self.connect()
        try:
            writer.write(self.head(method, path, len(body), more) + body)
            return parsed(await reader.read())
        finally:
            writer.close()

    async def metrics(self):
        _, text = await self.ask("GET", "/metrics")
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in text.decode().splitlines() if not line.startswith("#"))}

    async def idle(self, patience=60):
        """Waits until nothing is under way; what is, where that does not come."""
        for _ in range(patience * 10):
            metrics = await self.metrics()
            busy = {name: value for name, value in metrics.items() if name == "foreword_queue_requests" or name.startswith("foreword_model_requests")}
            if not any(busy.values()):
                return {}
            await asyncio.sleep(0.1)
        return busy


def parsed(answer):
    """Status and body; a broken answer is an error."""
    match = re.match(rb"HTTP/1\.1 (\d{3}) [^\r]*\r\n(.*?)\r\n\r\n", answer, re.S)
    assert match, f"no HTTP: {answer[:200]!r}"
    status, head, body = int(match[1]), match[2].lower(), answer[match.end() :]
    if b"transfer-encoding: chunked" in head:
        body = whole(body)
    else:
        length = re.search(rb"content-length: (\d+)", head)
        assert length and int(length[1]) == len(body), f"{len(body)} bytes of {length and length[1]}"
    return status, body


def whole(body):
    pieces = []
    while True:
        size, _, body = body.partition(b"\r\n")
        n = int(size or b"x", 16)
        if n == 0:
            return b"".join(pieces)
        assert len(body) >= n + 2, "the answer breaks off"
        pieces.append(body[:n])
        body = body[n + 2 :]


def is_complete(status, body, stream):
    """Whether an answer is whole, or an error that says what is wrong."""
    if status != 200:
        return "message" in str(json.loads(body)["error"])
    if not stream:
        return isinstance(json.loads(body), dict)
    return body.endswith(b"data: [DONE]\n\n") or b"event: message_stop" in body or b"event: response." in body or b'"error"' in body
