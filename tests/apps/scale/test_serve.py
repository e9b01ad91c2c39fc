"""The Ray Serve application: no request is lost, whatever is killed."""

import json
import os
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request

import pytest
import ray
from conftest import PROGRAM, until
from ray import serve

MODEL = os.environ["FOREWORD_CHAT_MODEL"]
URL = "http://127.0.0.1:8000"
CHAT = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2000, "ignore_eos": True, "stop_at_repetition": False}


def post(path, body, headers=None):
    request = urllib.request.Request(URL + path, json.dumps(body).encode(), {"content-type": "application/json", **(headers or {})})
    with urllib.request.urlopen(request, timeout=120) as response:
        return response.read().decode()


def servers():
    """Processes of servers that run here."""
    found = subprocess.run(["pgrep", "-f", f"{PROGRAM} serve {MODEL}"], capture_output=True, text=True).stdout
    return [int(pid) for pid in found.split() if int(pid) != os.getpid()]


@pytest.fixture
def app(cluster):
    import app as scale

    ray.init(address=cluster.address, log_to_driver=False)
    # All nodes have one address here.
    serve.start(proxy_location="HeadOnly")
    arguments = {"model": MODEL, "program": PROGRAM, "least": "2", "replicas": "2", "options": "--context 8000 --cache-tokens 65536"}
    serve.run(scale.build(arguments), route_prefix="/")
    until(lambda: len(servers()) == 2, "two replicas")
    yield
    serve.shutdown()


def chunks(text):
    return [json.loads(line[5:]) for line in text.splitlines() if line.startswith("data:") and "[DONE]" not in line]


def test_requests_survive_the_death_of_a_replica(app):
    whole = json.loads(post("/v1/chat/completions", {**CHAT, "max_tokens": 5}))
    assert whole["usage"]["completion_tokens"] == 5
    answers, failures = {}, []

    def ask(i):
        try:
            body = {**CHAT, "stream": bool(i % 2), "seed": i, "temperature": 1, "stream_options": {"include_usage": True} if i % 2 else None}
            answers[i] = post("/v1/chat/completions", {name: value for name, value in body.items() if value is not None})
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=ask, args=[i]) for i in range(16)]
    for thread in threads:
        thread.start()
    time.sleep(1)
    killed = servers()[0]
    assert sum(thread.is_alive() for thread in threads) > 8, "answers are being written"
    os.kill(killed, signal.SIGKILL)
    for thread in threads:
        thread.join(120)
    assert not failures, failures
    assert len(answers) == 16
    for i, text in answers.items():
        if i % 2:
            assert text.rstrip().endswith("data: [DONE]") and not any("error" in chunk for chunk in chunks(text)), text[-300:]
            assert len({chunk["id"] for chunk in chunks(text)}) == 1
        else:
            assert json.loads(text)["usage"]["completion_tokens"] == 2000
    until(lambda: len(servers()) == 2 and killed not in servers(), "another replica takes its place")


def test_chats_go_where_their_beginnings_were_read_and_sessions_stay(app):
    cached = 0
    for chat in range(4):
        turns = [{"role": "user", "content": f"{chat} " + "word " * 300}]
        for turn in range(3):
            reply = json.loads(post("/v1/chat/completions", {"messages": turns, "max_tokens": 4, "ignore_eos": True}))
            cached += turn > 0 and reply["usage"]["prompt_tokens_details"]["cached_tokens"] > 200
            turns = [*turns, {"role": "assistant", "content": reply["choices"][0]["message"]["content"]}, {"role": "user", "content": "More"}]
    assert cached == 8, "every later turn"
    # A response is stored at one replica.
    for i in range(6):
        headers = {"x-session-id": f"s{i}"}
        first = json.loads(post("/v1/responses", {"input": "Hi", "max_output_tokens": 2}, headers))
        post("/v1/responses", {"input": "More", "max_output_tokens": 2, "previous_response_id": first["id"]}, headers)


def test_refusals_of_the_server_are_passed_on(app):
    with pytest.raises(urllib.error.HTTPError) as refused:
        post("/v1/chat/completions", {**CHAT, "max_token": 1})
    assert refused.value.code == 400 and json.loads(refused.value.read())["error"]["param"] == "max_token"
