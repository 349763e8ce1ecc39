"""A server with vLLM's routes that computes: over a toy model, or over any backend in a test.

It keeps what a server keeps: weights, adapters, a prefix cache whose keys were computed with the
weights of their time. Standard library only, so that one starts in a tenth of a second:

    python vllm_fake.py -m vllm.entrypoints.cli.main serve FOLDER --port N --served-model-name actor

GENAC_FAKE_FAULTS names a file with one fault per start ("die 5": at the fifth completion, "hang 5",
"port", "crash"; an empty line is none), which each start takes the first line of.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import random
import sys
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

VOCAB, BLOCK = 32, 4
Values = dict[str, Any]
kept: list[mmap.mmap] = []  # shared memory that a killed server leaves behind


class Toy:
    """A model with one weight, which is the text of model.safetensors."""

    def load(self, folder: str) -> float:
        return float((Path(folder) / "model.safetensors").read_text())

    def adapt(self, weights: float, folder: str) -> float:
        return weights + float((Path(folder) / "adapter_model.safetensors").read_text())

    def complete(self, weights: float, body: Values) -> Values:
        ids, logprobs, top, reason = list(body["prompt"]), [], [], "length"
        start = len(ids)
        while len(ids) - start < body["max_tokens"]:
            row = distribution(weights, ids, body["temperature"])
            if body["temperature"] == 0:
                token = max(range(VOCAB), key=row.__getitem__)
            else:
                dice = random.Random(f"{body['seed']}/{len(ids)}")
                token = dice.choices(range(VOCAB), [math.exp(x) for x in row])[0]
            ids.append(token)
            logprobs.append(row[token])
            top.append({f"token_id:{i}": row[i] for i in body.get("logprob_token_ids", [token])})
            if token in body["stop_token_ids"]:
                reason = "stop"
                break
        return reply(ids[start:], logprobs, top, reason, start)


def distribution(weights: float, ids: list[int], temperature: float) -> list[float]:
    """Log-probabilities of the next token."""
    heat = temperature or 1.0
    logits = [
        2 * math.sin(weights + 1.7 * v + 0.31 * ids[-1] + 0.05 * len(ids)) / heat
        for v in range(VOCAB)
    ]
    total = math.log(sum(math.exp(x) for x in logits))
    return [x - total for x in logits]


def reply(
    ids: list[int], logprobs: list[float], top: list[Values], reason: str, read: int
) -> Values:
    scores = {"token_logprobs": logprobs, "top_logprobs": top}
    choice = {"token_ids": ids, "logprobs": scores, "finish_reason": reason}
    return {"choices": [choice], "usage": {"prompt_tokens": read, "completion_tokens": len(ids)}}


@dataclass
class Fake:
    """The state of a server."""

    folder: str
    name: str = "actor"
    backend: Any = field(default_factory=Toy)
    fault: str = ""
    resets: bool = True  # whether /reset_prefix_cache does what it says
    context: int | None = None  # tokens at which it ends a completion, in silence

    def __post_init__(self) -> None:
        self.lock = threading.RLock()
        self.weights = self.backend.load(self.folder)
        self.cache: dict[tuple[Any, ...], Any] = {}
        self.adapters: dict[str, Any] = {}
        self.version, self.paused = "default", False
        self.calls: list[str] = []
        self.prompts: list[tuple[int, ...]] = []

    def answer(self, path: str, body: Values) -> tuple[int, Any]:
        with self.lock:
            self.calls.append(path)
        if path == "/v1/completions":
            return self.complete(body)
        with self.lock:
            return getattr(self, path.strip("/").replace("/", "_"), self.unknown)(body)

    def unknown(self, body: Values) -> tuple[int, Any]:
        return 404, {"detail": "Not Found"}

    def health(self, body: Values) -> tuple[int, Any]:
        return 200, None

    def v1_models(self, body: Values) -> tuple[int, Any]:
        context = {} if self.context is None else {"max_model_len": self.context}
        return 200, {"data": [{"id": name, **context} for name in (self.name, *self.adapters)]}

    def is_paused(self, body: Values) -> tuple[int, Any]:
        return 200, {"is_paused": self.paused}

    def weight_info(self, body: Values) -> tuple[int, Any]:
        return 200, {"weight_version": self.version}

    def pause(self, body: Values) -> tuple[int, Any]:
        self.paused = True
        return 200, {"status": "paused"}

    def resume(self, body: Values) -> tuple[int, Any]:
        self.paused = False
        return 200, {"status": "resumed"}

    def collective_rpc(self, body: Values) -> tuple[int, Any]:
        folder = body["kwargs"]["weights_path"]
        if not Path(folder).is_dir():
            os._exit(1)  # as the real one does
        self.weights = self.backend.load(folder)
        return 200, {"results": [None]}

    def reset_prefix_cache(self, body: Values) -> tuple[int, Any]:
        if self.resets:
            self.cache.clear()
        return 200, {"success": True}

    def update_weight_version(self, body: Values) -> tuple[int, Any]:
        self.version = body["new_version"]
        return 200, {"success": True}

    def v1_load_lora_adapter(self, body: Values) -> tuple[int, Any]:
        if body["lora_name"] in self.adapters:
            return 400, {"error": "already loaded"}
        self.adapters[body["lora_name"]] = self.backend.adapt(self.weights, body["lora_path"])
        return 200, "ok"

    def v1_unload_lora_adapter(self, body: Values) -> tuple[int, Any]:
        known = self.adapters.pop(body["lora_name"], None) is not None
        return (200, "ok") if known else (404, {"error": "not found"})

    def complete(self, body: Values) -> tuple[int, Any]:
        prompt = tuple(body["prompt"])
        with self.lock:
            self.prompts.append(prompt)
            number = len(self.prompts)
            if body["model"] not in (self.name, *self.adapters):
                return 404, {"error": f"no model {body['model']}"}
            weights = self.adapters.get(body["model"], self.weights)
            if len(prompt) > BLOCK:
                key = (body["model"], body["cache_salt"], prompt[:BLOCK])
                weights = self.cache.setdefault(key, weights)
        kind, _, at = self.fault.partition(" ")
        if at and number >= int(at):
            if kind == "hang":
                time.sleep(3600)
            os._exit(1)
        if self.context is not None:
            room = self.context - len(prompt)
            body = {**body, "max_tokens": min(room, body["max_tokens"])}
        return 200, self.backend.complete(weights, body)


class Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True


def serve(fake: Fake, port: int = 0) -> ThreadingHTTPServer:
    """The server, which runs until its `shutdown`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def respond(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length) or b"{}")
            status, result = fake.answer(urlsplit(self.path).path, body)
            text = b"" if result is None else json.dumps(result).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = respond

        def log_message(self, *parts: Any) -> None:
            return

    server = Server(("127.0.0.1", port), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    return server


def next_fault() -> str:
    file = Path(os.environ.get("GENAC_FAKE_FAULTS", os.devnull))
    if not file.is_file():
        return ""
    first, _, rest = file.read_text().partition("\n")
    file.write_text(rest)
    return first.strip()


def main(arguments: list[str], backend: Any = Toy) -> None:
    if "-c" in arguments:  # the question for the version
        print(json.dumps(os.environ.get("GENAC_FAKE_VERSION", "0.32.0") or None))
        return
    fault = next_fault()
    if fault == "port":
        sys.exit("OSError: [Errno 98] error while attempting to bind: Address already in use")
    if fault == "crash":
        sys.exit("ValueError: this model is not supported")
    if shared := os.environ.get("GENAC_FAKE_SHARED"):
        first = Path(f"{shared}-first")  # semaphores are made under one name, and get another
        first.write_bytes(bytes(4096))
        with open(first, "r+b") as file:
            kept.append(mmap.mmap(file.fileno(), 4096))
        Path(shared).hardlink_to(first)
        first.unlink()
    after = lambda flag: arguments[arguments.index(flag) + 1]  # noqa: E731
    fake = Fake(after("serve"), after("--served-model-name"), backend(), fault)
    serve(fake, int(after("--port")))
    print("ready", arguments, flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main(sys.argv[1:])
