"""`foreword batch` over a file that is too large for one machine, as a Ray Data job.

    python native/scale/batch.py smollm2-135m /shared/prompts.jsonl /shared/answers.jsonl --cpus 4

The file is cut into parts of whole lines; each part is answered by a `foreword batch` of its own, wherever there is room. Requests,
answers and what lies between them have to be in a folder that all nodes see. A node that dies costs what it had not written: its
parts are gone on with elsewhere. Run again after a stop, the job does what is missing. In the end there is exactly one answer for
each request, in the order of the requests, or an error.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import ray


class Refused(SystemExit):
    def __init__(self, message):
        print(f"error: {message}", file=sys.stderr)
        super().__init__(1)


def parts_of(path, lines):
    """Where parts of so many requests begin and end, in bytes. Every `custom_id` has to be there once."""
    parts, seen, begin, n = [], set(), 0, 0
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    name = json.loads(line)["custom_id"]
                except (ValueError, KeyError, TypeError):
                    raise Refused(f"{path} line {number} is no request with a custom_id") from None
                digest = hashlib.blake2b(json.dumps(name).encode(), digest_size=12).digest()
                if digest in seen:
                    raise Refused(f"{path} line {number}: the custom_id {name!r} was there before")
                seen.add(digest)
                n += 1
            if n == lines:
                parts.append((begin, file.tell()))
                begin, n = file.tell(), 0
        if n:
            parts.append((begin, file.tell()))
    return parts


def place_of(work, number):
    return Path(work) / f"{number:06}.jsonl", Path(work) / f"{number:06}.answers.jsonl"


def answer(part):
    """Answers a part; one that was begun is gone on with."""
    requests, answers = place_of(part["work"], part["number"])
    if not requests.exists():
        with open(part["path"], "rb") as file:
            file.seek(part["begin"])
            text = file.read(part["end"] - part["begin"])
        # Whole or not at all: another node may do the same.
        own = requests.with_name(f"{requests.name}.{os.getpid()}-{os.urandom(4).hex()}")
        own.write_bytes(text)
        own.replace(requests)
    command = [part["program"], "batch", part["model"], str(requests), "-o", str(answers), *part["options"]]
    while True:
        run = subprocess.run(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, preexec_fn=dies_with_parent)
        if not run.returncode:
            return {"number": part["number"]}
        # A node that was given up may still write to it; it will be told to end.
        if "being written by another run" not in run.stderr:
            raise RuntimeError(f"{' '.join(command)} ended with status {run.returncode}:\n{run.stderr[-2000:]}")
        time.sleep(1)


def dies_with_parent():
    import ctypes
    import signal

    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def join(work, parts, output):
    """Answers in the order of the requests; each has to be there once."""
    own = Path(f"{output}.part")
    with open(own, "wb") as out:
        for number in range(len(parts)):
            requests, answers = place_of(work, number)
            found = {}
            for line in answers.read_bytes().splitlines(keepends=True):
                if line.strip():
                    name = json.dumps(json.loads(line)["custom_id"])
                    if name in found:
                        raise Refused(f"{answers} has two answers for {name}")
                    found[name] = line
            asked = [json.dumps(json.loads(line)["custom_id"]) for line in requests.read_bytes().splitlines() if line.strip()]
            if set(asked) != found.keys():
                raise Refused(f"{answers} does not have the answers of {requests}: {len(found)} for {len(asked)}")
            out.writelines(found[name] for name in asked)
    own.replace(output)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("model")
    parser.add_argument("requests", type=Path)
    parser.add_argument("answers", type=Path)
    parser.add_argument("--lines", type=int, default=1000, help="requests of a part")
    parser.add_argument("--cpus", type=float, default=1, help="processors for a part")
    parser.add_argument("--program", default="foreword")
    parser.add_argument("--address", default=os.environ.get("RAY_ADDRESS"), help="of the cluster; by default one on this machine")
    parser.add_argument("options", nargs="*", help="behind --: options of foreword batch")
    args = parser.parse_args()
    if args.lines < 1:
        raise Refused("--lines has to be 1 or more")
    parts = parts_of(args.requests, args.lines)
    # Another file of requests has other parts.
    mark = hashlib.blake2b(f"{args.model} {args.lines} {args.options} {parts}".encode(), digest_size=6).hexdigest()
    work = Path(f"{args.answers.absolute()}.{mark}.parts")
    work.mkdir(parents=True, exist_ok=True)
    ray.init(address=args.address, log_to_driver=False)
    shared = dict(path=str(args.requests.absolute()), work=str(work), program=args.program, model=args.model)
    options = ["--threads", str(max(1, int(args.cpus))), *args.options]
    todo = [dict(shared, options=options, number=i, begin=begin, end=end) for i, (begin, end) in enumerate(parts)]
    if todo:
        # Nodes may die as often as they like; a part that cannot be answered ends the job.
        ray.data.from_items(todo, override_num_blocks=len(todo)).map(answer, num_cpus=args.cpus, max_retries=-1).materialize()
    join(work, parts, args.answers)
    print(f"{sum(1 for _ in open(args.answers, 'rb'))} answers in {args.answers}; {work} can be removed", file=sys.stderr)


if __name__ == "__main__":
    main()
