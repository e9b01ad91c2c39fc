"""OpenAI's and Anthropic's clients for Python over a server at FOREWORD_URL."""

import json
import os

import anthropic
import openai
from pydantic import BaseModel

URL = os.environ["FOREWORD_URL"]
CHAT = dict(model="smol", messages=[{"role": "user", "content": "Name three fruits."}], temperature=0, max_tokens=12)
SCHEMA = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
# The model is too small to call tools by itself.
REGEX = r'<tool_call>\{"name": "add", "arguments": \{"x": [0-9]\}\}</tool_call>'
# Where a form and tools are given, it may also call as often as it likes.
CALL = {"regex": REGEX, "parallel_tool_calls": False}


class Fruit(BaseModel):
    name: str
    ripe: bool


def openai_client():
    client = openai.OpenAI(base_url=f"{URL}/v1", api_key="secret", max_retries=0)
    answer = client.chat.completions.create(**CHAT)
    text = answer.choices[0].message.content
    assert text and answer.usage.completion_tokens == 12, answer
    chunks = list(client.chat.completions.create(**CHAT, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == text
    assert chunks[-1].usage.completion_tokens == 12
    ask = {**CHAT, "max_tokens": 200, "messages": [{"role": "user", "content": "Describe a fruit as JSON."}]}
    parsed = client.chat.completions.parse(**ask, response_format=Fruit).choices[0].message.parsed
    assert isinstance(parsed, Fruit), parsed
    with client.chat.completions.stream(**ask, response_format=Fruit) as stream:
        kinds = [event.type for event in stream]
        assert isinstance(stream.get_final_completion().choices[0].message.parsed, Fruit)
    assert "content.delta" in kinds and "content.done" in kinds, set(kinds)
    assert client.completions.create(model="smol", prompt="One, two,", max_tokens=3).choices[0].text
    embeddings = client.embeddings.create(model="bert", input=["a", "b"])
    assert len(embeddings.data) == 2 and isinstance(embeddings.data[0].embedding[0], float)
    assert [model.id for model in client.models.list()] == ["smol", "bert"]
    openai_tools(client)
    openai_responses(client, text)
    openai_errors(client)


def openai_tools(client):
    tools = [{"type": "function", "function": {"name": "add", "parameters": SCHEMA}}]
    messages = [{"role": "user", "content": "Add 1 and 2."}]
    ask = dict(model="smol", tools=tools, temperature=0, max_tokens=60)
    answer = client.chat.completions.create(**ask, messages=messages, extra_body=CALL).choices[0]
    call = answer.message.tool_calls[0]
    assert (answer.finish_reason, call.function.name) == ("tool_calls", "add"), answer
    assert isinstance(json.loads(call.function.arguments)["x"], int)
    messages += [answer.message, {"role": "tool", "tool_call_id": call.id, "content": "3"}]
    assert client.chat.completions.create(**ask, messages=messages).choices[0].finish_reason in ("stop", "length")
    with client.chat.completions.stream(**ask, messages=messages[:1], extra_body=CALL) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion().choices[0].message.tool_calls[0]
    assert final.function.name == "add" and "tool_calls.function.arguments.done" in kinds, kinds


def openai_responses(client, text):
    ask = dict(model="smol", input="Name three fruits.", temperature=0, max_output_tokens=12)
    first = client.responses.create(**ask)
    assert first.output_text == text and first.status == "incomplete", first
    with client.responses.stream(**ask) as stream:
        pieces = [event.delta for event in stream if event.type == "response.output_text.delta"]
    assert "".join(pieces) == text
    again = client.responses.create(**{**ask, "input": "More."}, previous_response_id=first.id)
    assert again.usage.input_tokens > first.usage.input_tokens
    assert client.responses.retrieve(first.id).output_text == text
    client.responses.delete(first.id)
    parsed = client.responses.parse(model="smol", input="A fruit as JSON.", text_format=Fruit, temperature=0, max_output_tokens=200)
    assert isinstance(parsed.output_parsed, Fruit), parsed
    tools = [{"type": "function", "name": "add", "parameters": SCHEMA, "strict": False}]
    called = client.responses.create(model="smol", input="Add.", tools=tools, extra_body=CALL)
    call = called.output[0]
    assert (call.type, call.name) == ("function_call", "add"), called
    output = [{"type": "function_call_output", "call_id": call.call_id, "output": "3"}]
    ended = client.responses.create(model="smol", input=output, tools=tools, previous_response_id=called.id, max_output_tokens=5)
    assert ended.output_text


def openai_errors(client):
    for error, ask in [
        (openai.NotFoundError, {**CHAT, "model": "gpt"}),
        (openai.BadRequestError, {**CHAT, "extra_body": {"max_token": 1}}),
    ]:
        try:
            client.chat.completions.create(**ask)
        except error:
            continue
        raise AssertionError(error)
    try:
        openai.OpenAI(base_url=f"{URL}/v1", api_key="wrong", max_retries=0).models.list()
    except openai.AuthenticationError:
        return
    raise AssertionError("a wrong key was let in")


def anthropic_client():
    client = anthropic.Anthropic(base_url=URL, api_key="secret", max_retries=0)
    # This client has no setting for it.
    greedy = {**CHAT, "extra_body": {"temperature": CHAT["temperature"]}, "system": "Be brief."}
    del greedy["temperature"]
    answer = client.messages.create(**greedy)
    text = answer.content[0].text
    assert answer.usage.output_tokens == 12 and answer.stop_reason == "max_tokens", answer
    with client.messages.stream(**greedy) as stream:
        assert "".join(stream.text_stream) == text
        final = stream.get_final_message()
    assert final.usage.output_tokens == 12 and final.content[0].text == text, final
    counted = client.messages.count_tokens(model="smol", messages=CHAT["messages"], system="Be brief.")
    assert counted.input_tokens == answer.usage.input_tokens + answer.usage.cache_read_input_tokens
    assert [model.id for model in client.models.list()] == ["smol", "bert"]
    tools = [{"name": "add", "description": "Adds.", "input_schema": SCHEMA}]
    messages = [{"role": "user", "content": "Add 1 and 2."}]
    one = {"type": "auto", "disable_parallel_tool_use": True}
    ask = dict(model="smol", tools=tools, tool_choice=one, max_tokens=60, extra_body={"regex": REGEX, "temperature": 0})
    for answer in (client.messages.create(**ask, messages=messages), streamed(client, ask, messages)):
        call = answer.content[0]
        assert (answer.stop_reason, call.type, call.name) == ("tool_use", "tool_use", "add"), answer
        assert isinstance(call.input["x"], int)
        result = {"type": "tool_result", "tool_use_id": call.id, "content": "3"}
        turns = [*messages, {"role": "assistant", "content": answer.content}, {"role": "user", "content": [result]}]
        again = {**ask, "messages": turns, "extra_body": None}
        assert client.messages.create(**again).stop_reason in ("end_turn", "max_tokens")
    try:
        client.messages.create(**{**greedy, "model": "claude"})
    except anthropic.NotFoundError:
        return
    raise AssertionError("an unknown model answered")


def streamed(client, ask, messages):
    with client.messages.stream(**ask, messages=messages) as stream:
        return stream.get_final_message()


openai_client()
anthropic_client()
print("Python clients: all answered")
