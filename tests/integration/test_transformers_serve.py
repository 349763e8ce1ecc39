"""Oracle and zero-shot critic against `transformers serve`, which others wrote.

The served model writes one fixed judgement, whatever the prompt: its weights are set by hand.
"""

from __future__ import annotations

import itertools
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from micro import Answer, Values

from genac.config.stages import EndpointConfig
from genac.endpoint.client import Endpoint
from genac.models.tiny import build_tokenizer
from genac.runs.store import Run
from genac.stages.traces.files import read_traces

pytestmark = pytest.mark.slow
CHAT = "{% for m in messages %}{{ m['content'] }}{% endfor %}<judge>"
SAYS = ["<judge>", "fair", "\n", "<answer>", "7", "</answer>", "<eos>"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each word decides the next alone: attention and MLP add nothing, the head is a table."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("served")
    tokenizer = build_tokenizer(["fair"], 4096)
    tokenizer.chat_template = CHAT
    size = len(tokenizer)
    shape = {"hidden_size": size, "intermediate_size": 8, "num_hidden_layers": 1, "head_dim": 8}
    config = LlamaConfig(
        vocab_size=size,
        num_attention_heads=1,
        max_position_embeddings=4096,
        tie_word_embeddings=False,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        **shape,
    )
    served = LlamaForCausalLM(config)
    with torch.no_grad():
        for layer in served.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        served.model.embed_tokens.weight.copy_(torch.eye(size))
        served.lm_head.weight.zero_()
        ids = tokenizer.convert_tokens_to_ids(SAYS)
        for word, following in itertools.pairwise(ids):
            served.lm_head.weight[following, word] = 10.0
    served.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def url(model: Path) -> Iterator[str]:
    """The address of the running server."""
    program = Path(sys.executable).parent / "transformers"
    for package in ("fastapi", "uvicorn", "openai"):
        pytest.importorskip(package, reason="needs transformers[serving]")
    if not program.exists():
        pytest.skip("this transformers has no command line")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [program, "serve", model, "--host", "127.0.0.1", "--port", str(port)]
    log = model / "serve.log"
    quiet = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with open(log, "w") as file:
        server = subprocess.Popen(
            [*map(str, command), "--device", "cpu"], stdout=file, stderr=file, env=quiet
        )
    try:
        wait_for(f"http://127.0.0.1:{port}/health", server, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(30)


def wait_for(health: str, server: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text()[-2000:]
        try:
            urllib.request.urlopen(health, timeout=1).close()
            return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"the server did not come up: {log.read_text()[-2000:]}")


def test_answers_and_token_counts(url: str, model: Path, tmp_path: Path) -> None:
    cfg = EndpointConfig(base_url=url, model=str(model), temperature=0.0, max_tokens=16)
    replies, bill = Endpoint(cfg).ask(["1 2 3", "4 5"], tmp_path / "answers.jsonl")
    assert {r.text for r in replies.values()} == {"fair\n<answer>7</answer>"}
    assert bill.uncounted == 0 and bill.prompt_tokens == (3 + 1) + (2 + 1)
    assert bill.completion_tokens == 2 * len(SAYS[1:])
    wrong = EndpointConfig(base_url=url, model="another", max_retries=0)
    with pytest.raises(ValueError, match="pinned to"):
        Endpoint(wrong).ask([str(i) for i in range(5)], tmp_path / "wrong.jsonl")


def test_traces(
    url: str, model: Path, recipe: Callable[..., str], genac: Callable[..., Answer], tmp_path: Path
) -> None:
    endpoint = {"base_url": url, "model": str(model), "temperature": 0.0, "max_tokens": 16}
    made: Values = {"oracle": "endpoint", "num_states": 10, "endpoint": endpoint}
    folder = tmp_path / "own"
    file = recipe(stages={"folder": str(folder), "synthesize": made})
    assert genac("synthesize", file).code == 0
    (done,) = folder.glob("traces-*")
    traces = read_traces(done / "traces.jsonl")
    # One wording per problem is kept.
    assert {(t.reasoning, t.score) for t in traces} == {("fair\n", 7)}
    result = Run.open(done).metrics("synthesize")[0]
    assert result["dropped/duplicate"] == 10 - len({t.problem["id"] for t in traces})
    assert result["oracle/answers"] == 10 and result["oracle/uncounted"] == 0
    assert genac("sft", file).code == 0  # the critic learns from them


def test_zero_shot_critic(
    url: str,
    model: Path,
    run_micro: Callable[..., Run],
    genac: Callable[..., Answer],
) -> None:
    run, name = run_micro(), f"openai:{model}@{url}"
    sizes = ["--problems", "3", "--continuations", "2"]
    assert genac("eval", "critic", str(run.path), name, *sizes).code == 0
    cells: dict[str, Any] = json.loads((run.path / "critics.json").read_text())["in distribution"]
    assert cells[name]["parse_rate"] == 1.0
    assert cells[name]["calibration"][7]["count"] == cells[name]["states"]
