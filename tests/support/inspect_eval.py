"""Scores solutions with genac's scorer in inspect_ai, and writes what came of it (JSON).

    python inspect_eval.py URL FOLDER

Run by the environment of `make verl-env`; the model is inspect_ai's own mock.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.log import read_eval_log
from inspect_ai.model import ModelOutput, ModelUsage, get_model

from genac.integrations.inspect import boundaries, wrong_step

TEXT = "a+3=9\n\nb*7=4\nc-8=6\n"
CUTS = ("", "one line", TEXT, "\n\na\n", "a; b;c")


def main(url: str, folder: Path) -> None:
    output = ModelOutput.from_content("mockllm", TEXT)
    output.usage = ModelUsage(input_tokens=1, output_tokens=1)  # else tiktoken is downloaded
    task = Task([Sample(input="6 a+3 b*7 c-8>", target="6")], scorer=wrong_step(url, timeout=30))
    model = get_model("mockllm/model", custom_outputs=[output])
    (log,) = eval(task, model=model, log_dir=str(folder), display="none")
    model = get_model("mockllm/model", custom_outputs=[output], memoize=False)
    (again,) = eval(task, model=model, log_dir=str(folder), display="none")
    result = {
        "status": log.status,
        "again": again.status,
        "no key": message(lambda: wrong_step(url, api_key_env="GENAC_NO_SUCH_KEY")),
        "torch": "torch" in sys.modules,
        "boundaries": [list(boundaries(t, "; " if ";" in t else "\n")) for t in CUTS],
        "eval": summary(log),
    }
    command = [
        *(str(Path(sys.executable).with_name("inspect")), "score", log.location),
        *("--scorer", "genac/wrong_step", "-S", f"url={url}"),
        *("--action", "append", "--output-file", str(folder / "scored.eval")),
    ]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    result["command"] = (done.stdout + done.stderr)[-2000:]
    if done.returncode == 0:
        result["scored"] = summary(read_eval_log(str(folder / "scored.eval")))
    (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")


def message(work: Callable[[], object]) -> str:
    """What is refused, and how."""
    try:
        work()
    except ValueError as error:
        return str(error)
    return "nothing was refused"


def summary(log: object) -> dict:
    """The scores of the only sample, by scorer, and the metrics."""
    scores = {name: s.model_dump(mode="json") for name, s in log.samples[0].scores.items()}
    metrics = {s.name: {k: m.value for k, m in s.metrics.items()} for s in log.results.scores}
    return {"scores": scores, "metrics": metrics}


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
