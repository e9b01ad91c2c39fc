"""Which replica a request goes to, and what another one is asked when it goes."""

import json

from routing import STEP, Readers, beginnings, text_of
from streams import Streamed


def chat(*turns):
    return {"messages": [{"role": "user", "content": turn} for turn in turns]}


def names(*turns, model="m"):
    return beginnings(model, text_of(chat(*turns)))


LONG = "word " * 200


def test_the_next_turn_has_the_beginnings_of_the_one_before():
    first, second = names(LONG), names(LONG, "more")
    assert len(first) == len(text_of(chat(LONG))) // STEP
    assert set(first) <= set(second) and second[-1] == first[-1]
    assert not set(names("x" + LONG)) & set(first)
    assert not set(names(LONG, model="other")) & set(first)
    assert names("short") == []
    assert text_of([1]) == text_of({"n": 1}) == ""


def test_the_longest_beginning_decides():
    readers = Readers()
    readers.note(names(LONG), "a")
    readers.note(names(LONG, LONG), "b")
    assert readers.of(names(LONG, LONG, "more"), {"a", "b"}) == {"b"}
    assert readers.of(names(LONG, "other"), {"a", "b"}) == {"a", "b"}
    assert readers.of(names(LONG, LONG), {"a"}) == {"a"}, "b has gone"
    assert readers.of(names("other" + LONG), {"a", "b"}) == set()
    readers.keep({"a"})
    assert readers.of(names(LONG, LONG), {"a", "b"}) == {"a"}


def test_what_is_of_no_use_is_forgotten():
    readers = Readers(most=len(names(LONG)))
    readers.note(names(LONG), "a")
    readers.note(names("x" + LONG), "b")
    assert readers.of(names(LONG), {"a", "b"}) == set()
    assert len(readers.readers) <= readers.most


def event(text, **more):
    return b"data: " + json.dumps({"id": more.pop("id", "1"), "created": 1, "choices": [{"index": 0, "delta": {"content": text, **more}}]}).encode() + b"\n\n"


def test_an_answer_is_gone_on_with_from_its_words():
    body = {**chat("Hi"), "stream": True, "max_tokens": 10}
    streamed = Streamed("/v1/chat/completions", body)
    assert streamed.body_to_go_on() == body, "before anything was written"
    text = event("Hel", role="assistant") + event("lo")
    whole = b"".join(streamed.feed(text[i : i + 7]) for i in range(0, len(text), 7))
    assert whole == text and streamed.feed(b"data: {half") == b""
    again = streamed.body_to_go_on()
    assert again["messages"] == [*body["messages"], {"role": "assistant", "content": "Hello"}]
    assert (again["continue_final_message"], again["max_tokens"], body["max_tokens"]) == (True, 8, 10)
    chunk = json.loads(streamed.feed(event(" you", id="2", role="assistant"))[6:])
    assert (chunk["id"], chunk["choices"][0]["delta"]) == ("1", {"content": " you"})
    assert streamed.body_to_go_on()["messages"][-1]["content"] == "Hello you"
    assert not streamed.ended and streamed.feed(b"data: [DONE]\n\n") and streamed.ended


def test_answers_that_hang_on_more_than_words_are_not():
    for more in ({"n": 2}, {"tools": []}, {"grammar": "x"}, {"logprobs": True}):
        assert not Streamed("/v1/chat/completions", {**chat("Hi"), **more}).can_go_on
    assert not Streamed("/v1/messages", chat("Hi")).can_go_on
    assert not Streamed("/v1/completions", {"prompt": ["a", "b"]}).can_go_on
    thinking = Streamed("/v1/chat/completions", chat("Hi"))
    thinking.feed(event(None, reasoning_content="hm"))
    assert not thinking.can_go_on
