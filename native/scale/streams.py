"""A streamed answer whose replica may go before its end: another one goes on from the words that are there."""

import json

# Fields of requests whose answers hang on more than the words so far.
WHOLE = ("tools", "response_format", "grammar", "regex", "logprobs", "top_logprobs", "prediction")


class Streamed:
    """Passes events on, and remembers what was written."""

    def __init__(self, path, body):
        self.path, self.body = path, body
        self.head = None
        self.text = ""
        self.written = 0
        self.ended = False
        self.sent = False
        self.again = False
        self.can_go_on = path in ("/v1/chat/completions", "/v1/completions") and not isinstance(body.get("prompt"), list)
        self.can_go_on &= body.get("n") in (None, 1) and all(body.get(field) is None for field in WHOLE)
        self.rest = b""

    def feed(self, piece):
        """The whole events in what has come, as they are to be passed on."""
        *events, self.rest = (self.rest + piece).split(b"\n\n")
        return b"".join(self.passed(event) + b"\n\n" for event in events)

    def passed(self, event):
        self.sent = True
        data = event.split(b"data:", 1)[-1].strip()
        self.ended |= data == b"[DONE]" or b'"type":"message_stop"' in event or b"event: response.completed" in event
        if not self.can_go_on or data == b"[DONE]":
            return event
        try:
            chunk = json.loads(data)
        except ValueError:
            return event
        if "error" in chunk:
            self.ended = True
        self.head = self.head or {"id": chunk.get("id"), "created": chunk.get("created")}
        for choice in chunk.get("choices", []):
            delta = choice.get("delta") or {}
            words = choice.get("text") or delta.get("content") or ""
            self.text += words
            self.written += bool(words)
            # Thoughts and calls come apart from the words.
            self.can_go_on &= not delta.get("reasoning_content") and not delta.get("tool_calls") and choice.get("index", 0) == 0
            if self.again:
                delta.pop("role", None)
        if not self.again:
            return event
        return b"data: " + json.dumps({**chunk, **self.head}, ensure_ascii=False).encode()

    def body_to_go_on(self):
        """The request for another replica. Where events were passed on, it has to be one that can be gone on with."""
        self.rest = b""
        self.again = self.sent
        if not self.written:
            return self.body
        body = dict(self.body)
        for limit in ("max_tokens", "max_completion_tokens"):
            if body.get(limit):
                body[limit] = max(1, body[limit] - self.written)
        if "prompt" in body:
            return {**body, "prompt": body["prompt"] + self.text}
        messages = list(body["messages"])
        if body.get("continue_final_message"):
            messages[-1] = {**messages[-1], "content": messages[-1]["content"] + self.text}
        else:
            messages.append({"role": "assistant", "content": self.text})
        return {**body, "messages": messages, "continue_final_message": True}
