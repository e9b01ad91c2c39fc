"""Foreword on a Ray cluster: replicas of `foreword serve` behind one address.

    cd native/scale && serve run --working-dir . app:build model=smollm2-135m replicas=4

docs/scale.md has the arguments and says what it is for.
"""

import asyncio
import ctypes
import json
import math
import os
import shlex
import signal
import subprocess
import threading

import aiohttp
from ray import serve
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy, RequestRouterConfig
from ray.serve.exceptions import DeploymentUnavailableError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from routing import LongestBeginning, beginnings, text_of
from streams import Streamed

# A replica answers so many requests at once at most; others wait in front of it, where they may still go elsewhere.
MOST_REQUESTS = 64
# As many requests for a replica as are answered at once with good speed: where there are more, another replica is begun.
TARGET = 16
# A request whose replica goes is given to another one so often.
TRIES = 4
# What the server and its clients say about the connection, not about the answer.
HOP = {"connection", "content-length", "date", "host", "keep-alive", "transfer-encoding"}


class Gone(Exception):
    """The server went away before its answer was whole."""


def by_queue(context):
    """As many replicas as there are requests for: those that servers count, and those that wait in front of them."""
    counted = sum((context.aggregated_metrics or {}).get("queue", {}).values())
    return math.ceil((counted + (context.total_queued_requests or 0)) / TARGET), {}


def dies_with_parent():
    # A replica that is killed cannot end its server; the kernel does.
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


@serve.deployment
class Replica:
    """A server of its own, and what asks it."""

    def __init__(self, command):
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=dies_with_parent)
        line = self.process.stdout.readline()
        if not line.startswith("listening on "):
            raise RuntimeError(f"{shlex.join(command)} did not start; its words are above")
        self.url = line.split()[-1]
        self.session = None
        threading.Thread(target=self.follow, daemon=True).start()

    def follow(self):
        # A replica without its server would be the idlest of all, and be given what it cannot answer.
        self.process.wait()
        os._exit(1)

    def ask_server(self, method, path, **options):
        # Made where the loop runs.
        self.session = self.session or aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None), connector=aiohttp.TCPConnector(limit=0))
        return self.session.request(method, self.url + path, **options)

    async def record_autoscaling_stats(self):
        async with self.ask_server("GET", "/metrics") as response:
            lines = (await response.text()).splitlines()
        return {"queue": next(float(line.split()[-1]) for line in lines if line.startswith("foreword_queue_requests "))}

    async def ask(self, routing, method, path, headers, body):
        """Status and headers, then pieces of the answer. `routing` is for the router."""
        try:
            async with self.ask_server(method, path, headers=headers, data=body) as response:
                kept = {name: value for name, value in response.headers.items() if name.lower() not in HOP}
                yield response.status, kept
                async for piece in response.content.iter_any():
                    yield piece
        except (aiohttp.ClientError, ConnectionError) as error:
            raise Gone(str(error)) from None

    def __del__(self):
        # It finishes what it answers.
        self.process.terminate()


@serve.deployment
class Ingress:
    """Takes requests in, and gives them to another replica where the first one goes away."""

    def __init__(self, replicas):
        self.replicas = replicas.options(stream=True)

    async def __call__(self, request: Request):
        text = await request.body()
        try:
            body = json.loads(text)
        except ValueError:
            body = None
        path = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        headers = {name: value for name, value in request.headers.items() if name not in HOP}
        session = request.headers.get("x-session-id")
        model = body.get("model") if isinstance(body, dict) else None
        routing = (session, beginnings(str(model), text_of(body)))

        def ask(text):
            return self.replicas.ask.remote(routing, request.method, path, headers, text)

        if isinstance(body, dict) and body.get("stream"):
            return await self.stream(ask, text, Streamed(request.url.path, body))
        return await self.whole(ask, text)

    async def whole(self, ask, text):
        for last in range(TRIES):
            try:
                pieces = ask(text)
                status, headers = await anext(pieces)
                return Response(b"".join([piece async for piece in pieces]), status, headers)
            except Exception as error:
                await again(error, last)
        return refusal()

    async def stream(self, ask, text, streamed):
        for last in range(TRIES):
            try:
                pieces = ask(text)
                status, headers = await anext(pieces)
                return StreamingResponse(self.rest(ask, pieces, streamed), status, headers)
            except Exception as error:
                await again(error, last)
        return refusal()

    async def rest(self, ask, pieces, streamed):
        """What comes behind the status, from one replica or several."""
        for last in range(TRIES):
            try:
                if pieces is None:
                    pieces = ask(json.dumps(streamed.body_to_go_on()).encode())
                    status, _ = await anext(pieces)
                    if status != 200:
                        break
                async for piece in pieces:
                    if whole := streamed.feed(piece):
                        yield whole
                if streamed.rest:
                    yield streamed.rest
                return
            except Exception as error:
                await again(error, last)
            if streamed.ended:
                return
            if not streamed.can_go_on and streamed.sent:
                break
            pieces = None
        yield b"data: " + json.dumps(LOST).encode() + b"\n\n"


async def again(error, tries):
    """Waits for another replica, where the failure is one of the one that was asked."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    if not isinstance(cause, (Gone, RayActorError, DeploymentUnavailableError)):
        raise error
    await asyncio.sleep(0.1 * 2**tries)


LOST = {"error": {"message": "the replica that answered has gone; ask again", "type": "server_error", "param": None, "code": "replica_lost"}}


def refusal():
    return JSONResponse(LOST, 503, {"retry-after": "1"})


def build(args):
    """The application. `model` (several with spaces between them), `replicas` (most), `least`, `cpus` for each, `options` of
    `foreword serve`, `program`."""
    known = {"model", "replicas", "least", "cpus", "options", "program"}
    if unknown := args.keys() - known:
        raise ValueError(f"there is no argument {', '.join(sorted(unknown))}; there are {', '.join(sorted(known))}")
    models = shlex.split(args.get("model", "smollm2-135m"))
    options = shlex.split(args.get("options", ""))
    cpus = float(args.get("cpus", 1))
    command = [args.get("program", "foreword"), "serve", *models, "--port", "0", "--ui=false"]
    command += ["--threads", str(max(1, int(cpus))), *options]
    scaling = AutoscalingConfig(
        min_replicas=int(args.get("least", 1)), max_replicas=int(args.get("replicas", 1)), upscale_delay_s=5, metrics_interval_s=1, look_back_period_s=5,
        policy=AutoscalingPolicy(policy_function=by_queue),
    )
    replicas = Replica.options(
        max_ongoing_requests=MOST_REQUESTS, autoscaling_config=scaling, ray_actor_options={"num_cpus": cpus}, graceful_shutdown_timeout_s=600,
        request_router_config=RequestRouterConfig(request_router_class=LongestBeginning),
    ).bind(command)
    # It only passes pieces on.
    return Ingress.options(max_ongoing_requests=10_000, ray_actor_options={"num_cpus": 0.1}).bind(replicas)
