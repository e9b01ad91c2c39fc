"""The Ray Data job: one answer for each request, whatever happens to nodes and to the job."""

import json
import subprocess
import sys

import pytest
from conftest import PROGRAM, ROOT, until

MODEL = str(ROOT / "tests/data/models/llama.gguf")


def requests(path, n, tokens=200):
    body = {"prompt": "Hello", "max_tokens": tokens, "ignore_eos": True, "temperature": 0}
    lines = [json.dumps({"custom_id": f"r{i}", "method": "POST", "url": "/v1/completions", "body": body}) for i in range(n)]
    path.write_text("\n".join(lines) + "\n")
    return [f"r{i}" for i in range(n)]


def job(cluster, folder, *options):
    command = [sys.executable, ROOT / "native/scale/batch.py", MODEL, folder / "requests.jsonl", folder / "answers.jsonl"]
    command += ["--address", cluster.address, "--program", PROGRAM, *options]
    return subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True)


def answered(folder):
    return [json.loads(line)["custom_id"] for line in (folder / "answers.jsonl").read_text().splitlines()]


def written(folder):
    """Answers so far, of all parts."""
    return sum(path.read_bytes().count(b"\n") for path in folder.glob("*.parts/*.answers.jsonl"))


def test_a_node_that_dies_costs_no_answer_and_doubles_none(cluster, tmp_path):
    names = requests(tmp_path / "requests.jsonl", 240)
    run = job(cluster, tmp_path, "--lines", "20")
    until(lambda: written(tmp_path) > 10 or run.poll() is not None, "answers are written")
    assert run.poll() is None, run.stderr.read()
    cluster.remove_node(list(cluster.worker_nodes)[0], allow_graceful=False)
    assert written(tmp_path) < len(names), "it was killed in mid-work"
    said = run.communicate()[1]
    assert run.returncode == 0, said
    assert answered(tmp_path) == names


def test_a_job_that_was_stopped_goes_on(cluster, tmp_path):
    names = requests(tmp_path / "requests.jsonl", 120)
    run = job(cluster, tmp_path, "--lines", "20")
    until(lambda: written(tmp_path) > 10 or run.poll() is not None, "answers are written")
    run.kill()
    run.communicate()
    before = written(tmp_path)
    assert 0 < before < len(names)
    again = job(cluster, tmp_path, "--lines", "20")
    said = again.communicate()[1]
    assert again.returncode == 0, said
    assert answered(tmp_path) == names


@pytest.mark.parametrize("line", ["{}", "[", '{"custom_id": "r0"}'])
def test_what_is_no_file_of_requests_is_refused(tmp_path, line):
    import batch

    requests(tmp_path / "requests.jsonl", 2)
    with open(tmp_path / "requests.jsonl", "a") as file:
        file.write(line + "\n")
    with pytest.raises(SystemExit):
        batch.parts_of(tmp_path / "requests.jsonl", 10)


def test_parts_are_whole_lines_and_all_of_them(tmp_path):
    import batch

    path = tmp_path / "requests.jsonl"
    requests(path, 25)
    text = path.read_bytes() + b"\n  \n"
    path.write_bytes(text[:-4])
    for lines in (1, 7, 25, 100):
        parts = batch.parts_of(path, lines)
        pieces = [text[begin:end] for begin, end in parts]
        assert b"".join(pieces).strip() == text.strip()
        assert [len(piece.splitlines()) for piece in pieces[:-1]] == [lines] * (len(parts) - 1)
