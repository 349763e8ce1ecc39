"""A Tinker server in this process, for the SDK's own wire format: it computes, on a tiny model.

    with TinkerServer(folder) as url:
        tinker.ServiceClient(base_url=url, api_key="tml-test")

Sampling is our LocalEngine, training plain torch on our adapters: AdamW, losses that add up.
Made after the hosted service's documents and the SDK; it proves our side of the contract only.
"""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import torch
from tinker.proto import tinker_public_pb2 as pb
from torch import Tensor

from genac.config.models import LoraConfig
from genac.engines.base import Request
from genac.engines.local import LocalEngine
from genac.models.loading import load_model, load_tokenizer
from genac.models.lora import adapters, attach

Values = dict[str, Any]
NUMPY = {pb.DTYPE_FLOAT32: np.float32, pb.DTYPE_INT64: np.int64}


def dense(tensor: Any) -> np.ndarray:
    """A tensor of a request, which may be sparse."""
    kind, shape = NUMPY[tensor.dtype], tuple(tensor.shape)
    if not tensor.HasField("sparse_csr"):
        return np.frombuffer(tensor.dense, kind).reshape(shape).copy()
    out, csr = np.zeros(shape, kind), tensor.sparse_csr
    crow, col = (np.frombuffer(x, np.int64) for x in (csr.crow_indices, csr.col_indices))
    out[np.repeat(np.arange(shape[0]), np.diff(crow)), col] = np.frombuffer(csr.values, kind)
    return out


def cross_entropy(logp: Tensor, x: dict[str, Tensor]) -> Tensor:
    return -logp * x["weights"]


def importance_sampling(logp: Tensor, x: dict[str, Tensor]) -> Tensor:
    return -(logp - x["logprobs"]).exp() * x["advantages"]


LOSSES = {"cross_entropy": cross_entropy, "importance_sampling": importance_sampling}


class Trained:
    """One set of adapters, its gradients and its moments."""

    def __init__(self, base: str, rank: int, seed: int, sums: bool) -> None:
        self.base, self.rank, self.sums, self.rows = base, rank, sums, 0
        self.model = attach(load_model(base), LoraConfig(rank=rank, alpha=32), seed).eval()
        self.parameters = list(adapters(self.model).values())
        self.optimizer = torch.optim.AdamW(self.parameters)
        self.next = 1  # number of the request to be run next

    def logprobs(self, ids: np.ndarray, targets: np.ndarray) -> Tensor:
        logits = self.model(input_ids=torch.from_numpy(ids.astype(np.int64))[None]).logits[0]
        flat = torch.from_numpy(targets.reshape(len(ids), -1))
        return torch.log_softmax(logits.float(), -1).gather(-1, flat).reshape(targets.shape)

    def run(self, request: Any) -> bytes:
        """forward_backward, or forward alone."""
        backward = not request.forward_only
        out, total = pb.ForwardBackwardOutput(loss_fn_output_type="TorchLossReturn"), 0.0
        for datum in request.data:
            chunks = [np.frombuffer(c.encoded_text.tokens, np.int32) for c in datum.model_input]
            streams = {name: dense(value) for name, value in datum.loss_fn_inputs.items()}
            targets = streams.pop("target_tokens")
            tensors = {name: torch.from_numpy(value) for name, value in streams.items()}
            with torch.set_grad_enabled(backward):
                logp = self.logprobs(np.concatenate(chunks), targets)
                loss = LOSSES[request.loss_fn](logp, tensors).sum()
                if not self.sums:
                    loss = loss / tensors["weights"].sum()
                if backward:
                    loss.backward()
                    self.rows += 1
            total += float(loss.detach())
            record = out.loss_fn_outputs.add(type_tag="r", num_datums=1)
            record.fields["logprobs"].CopyFrom(batched(logp.detach().numpy()))
        out.metrics["loss:sum"] = total
        return out.SerializeToString()

    def step(self, adam: Values) -> Values:
        for group in self.optimizer.param_groups:
            group.update(
                lr=adam["learning_rate"],
                betas=(adam["beta1"], adam["beta2"]),
                eps=adam["eps"],
                weight_decay=adam["weight_decay"],
            )
        if not self.sums:  # the mean over rows; such servers do not clip
            for parameter in self.parameters:
                parameter.grad /= self.rows
        self.rows = 0
        limit = (adam.get("grad_clip_norm") if self.sums else None) or float("inf")
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, limit))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return {"metrics": {"grad_norm:last": norm}}

    def state(self) -> Values:
        return copy.deepcopy(
            {
                "adapters": adapters(self.model),
                "optimizer": self.optimizer.state_dict(),
                "rank": self.rank,
                "base": self.base,
            }
        )

    def restore(self, state: Values, moments: bool) -> None:
        with torch.no_grad():
            for name, parameter in adapters(self.model).items():
                parameter.copy_(state["adapters"][name])
        if moments:
            self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))


def batched(values: np.ndarray) -> Any:
    flat = values.astype(np.float32)
    ends = np.array([0, flat.nbytes]).tobytes()
    return pb.BatchedTensor(
        data=flat.tobytes(), offsets=ends, dtype=pb.DTYPE_FLOAT32, trailing_shape=flat.shape[1:]
    )


class Sampler:
    """Weights as they were when they were published."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model = copy.deepcopy(model).eval()
        limit = model.config.max_position_embeddings
        self.engine = LocalEngine(self.model, limit, tokenizer=tokenizer)
        self.engine.publish(self.model, 0)

    @torch.no_grad()
    def sample(self, body: Values) -> bytes:
        prompt = tuple(t for c in body["prompt"]["chunks"] for t in c["tokens"])
        params, out = body["sampling_params"], pb.SampleResponse()
        stop = params.get("stop") or []
        request = Request(
            prompt,
            params["max_tokens"],
            params.get("seed", 0),
            params["temperature"],
            params["top_p"],
            tuple(s for s in stop if isinstance(s, int)),
            stop=tuple(s for s in stop if isinstance(s, str)),
        )
        assert body["num_samples"] == 1, "every request has a seed of its own"
        (completion,) = self.engine.generate([request])
        out.sequences.add(
            stop_reason=int(completion.finish == "length"),
            tokens=np.asarray(completion.ids, np.int32).tobytes(),
            logprobs=completion.logprobs.astype(np.float32).tobytes(),
        )
        target = body.get("target_prompt_logprobs")
        if target or body.get("prompt_logprobs"):
            logits = self.model(input_ids=torch.tensor([prompt])).logits[0, :-1]
            logp = torch.log_softmax(logits.float(), -1).numpy()
            own = np.take_along_axis(logp, np.array(prompt[1:])[:, None], 1)[:, 0]
            out.prompt_logprobs = np.r_[np.nan, own].astype(np.float32).tobytes()
            if target:
                name_probs(out.target_prompt_logprobs, target, logp)
        return out.SerializeToString()


def name_probs(out: Any, target: Values, logp: np.ndarray) -> None:
    """Log-probabilities of the ids in `target`, in its layout; 0 where it has -1."""
    out.dtype = pb.DTYPE_FLOAT32
    out.shape.extend(target["shape"])
    ids, crow = np.asarray(target["data"], np.int64), target.get("sparse_crow_indices")
    if crow is None:
        ids = ids.reshape(target["shape"])
        result = np.where(ids >= 0, np.take_along_axis(logp, ids.clip(0), 1), 0.0)
        out.dense = result.astype(np.float32).tobytes()
        return
    rows = np.repeat(np.arange(len(crow) - 1), np.diff(crow))
    out.sparse_csr.values = logp[rows, ids].astype(np.float32).tobytes()
    out.sparse_csr.crow_indices = np.asarray(crow, np.int64).tobytes()
    out.sparse_csr.col_indices = np.asarray(target["sparse_col_indices"], np.int64).tobytes()


class TinkerServer:
    """The state of a server of some base models of one tokenizer; `calls` are the names of all
    requests, in order. Unless it `sums`, losses are means over a row's weights and over rows.
    """

    def __init__(self, *bases: Any, sums: bool = True) -> None:
        self.bases, self.sums = [str(base) for base in bases], sums
        self.tokenizer = load_tokenizer(self.bases[0])
        self.models: dict[str, Trained] = {}
        self.samplers: dict[str, Sampler] = {}
        self.saved: dict[str, Values] = {}
        self.results: dict[str, Any] = {}
        self.waiting: dict[tuple[str, int], Callable[[Trained], Any]] = {}
        self.calls: list[str] = []
        self.adam: list[Values] = []
        self.steps_left: int | None = None  # optimiser steps until it fails; None = never
        self.lock = threading.RLock()

    def __enter__(self) -> str:
        handler = type("Bound", (Handler,), {"fake": self})
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()
        return f"http://127.0.0.1:{self.http.server_address[1]}"

    def __exit__(self, *_: Any) -> None:
        self.http.shutdown()
        self.http.server_close()

    def handle(self, name: str, body: Any) -> Any:
        self.calls.append(name)
        if name.startswith("samplers/"):
            return {"sampler_id": name.removeprefix("samplers/"), "base_model": self.bases[0]}
        known = getattr(self, f"_{name.replace('/', '_')}", None)
        return known(body) if known is not None else {}

    def _get_server_capabilities(self, body: Any) -> Values:
        return {"supported_models": [{"model_name": base} for base in self.bases]}

    def _create_session(self, body: Values) -> Values:
        return {"session_id": "session"}

    def _retrieve_future(self, body: Values) -> Any:
        number = body["request_id"]
        again = {"type": "try_again", "request_id": number, "queue_state": "active"}
        return self.results.get(number, again)

    def _create_model(self, body: Values) -> Values:
        number, lora = f"{body['session_id']}:train:{body['model_seq_id']}", body["lora_config"]
        assert lora["train_attn"] and lora["train_mlp"] and not lora["train_unembed"]
        base = body["base_model"]
        self.models[number] = Trained(base, lora["rank"], lora["seed"], self.sums)
        return self._done({"model_id": number})

    def _load_weights(self, body: Values) -> Values:
        state = self.saved[body["path"]]
        number = f"{body['session_id']}:train:{body['model_seq_id']}"
        self.models[number] = Trained(state["base"], state["rank"], 0, self.sums)
        self.models[number].restore(state, body["optimizer"])
        return self._done({"path": body["path"], "model_id": number})

    def _get_info(self, body: Values) -> Values:
        model = self.models[body["model_id"]]
        data = {"model_name": model.base}
        more = {"is_lora": True, "lora_rank": model.rank}
        return {"model_id": body["model_id"], "model_data": data, **more}

    def _forward_backward(self, body: bytes) -> Values:
        request = pb.ForwardBackwardRequest()
        request.ParseFromString(body)
        return self._queue(request.model_id, request.seq_id, lambda model: model.run(request))

    def _optim_step(self, body: Values) -> Values:
        if self.steps_left is not None:
            self.steps_left -= 1
            assert self.steps_left >= 0, "out of order"
        self.adam.append(body["adam_params"])
        step = lambda model: model.step(body["adam_params"])  # noqa: E731
        return self._queue(body["model_id"], body["seq_id"], step)

    def _save_weights(self, body: Values) -> Values:
        def save(model: Trained) -> Values:
            path = f"tinker://{body['model_id']}/weights/{body['path']}"
            assert path not in self.saved, "a name is used once"
            self.saved[path] = model.state()
            return {"path": path}

        return self._queue(body["model_id"], body["seq_id"], save)

    def _save_weights_for_sampler(self, body: Values) -> Values:
        def publish(model: Trained) -> Values:
            name = f"{body['model_id']}/{body['seq_id']}"
            self.samplers[name] = Sampler(model.model, self.tokenizer)
            return {"path": f"tinker://{name}", "sampling_session_id": name}

        return self._queue(body["model_id"], body["seq_id"], publish)

    def _create_sampling_session(self, body: Values) -> Values:
        base = body["base_model"]
        if base not in self.samplers:
            self.samplers[base] = Sampler(load_model(base), self.tokenizer)
        return {"sampling_session_id": base}

    def _asample(self, body: Values) -> Values:
        result = self._done(self.samplers[body["sampling_session_id"]].sample(body))
        return {**result, "sample_sequence_ids": [f"{len(self.results)}"]}

    def _queue(self, model_id: str, number: int, act: Callable[[Trained], Any]) -> Values:
        """Runs a model's requests in the order of their numbers, whatever order they arrive in."""
        self.waiting[model_id, number] = act
        model = self.models[model_id]
        while (due := self.waiting.pop((model_id, model.next), None)) is not None:
            self.results[f"{model_id}/{model.next}"] = due(model)
            model.next += 1
        return {"request_id": f"{model_id}/{number}", "model_id": model_id}

    def _done(self, result: Any) -> Values:
        number = f"r{len(self.results)}"
        self.results[number] = result
        return {"request_id": number}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    fake: TinkerServer

    def do_GET(self) -> None:
        self._answer({})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        binary = "protobuf" in self.headers.get("Content-Type", "")
        self._answer(body if binary else json.loads(body or b"{}"))

    def _answer(self, body: Any) -> None:
        try:
            with self.fake.lock:
                status, result = 200, self.fake.handle(self.path.removeprefix("/api/v1/"), body)
        except Exception as error:  # a server's fault is its client's to see
            status, result = 400, {"detail": f"{type(error).__name__}: {error}"}
        binary = isinstance(result, bytes)
        data = result if binary else json.dumps(result).encode()
        self.send_response(status)
        kind = "application/x-protobuf" if binary else "application/json"
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Nothing is printed."""
