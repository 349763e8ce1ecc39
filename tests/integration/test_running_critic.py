"""The running critic: notes behind segments, in all stages of a small run."""

from __future__ import annotations

import pytest

from genac.config.models import GenerativeConfig
from genac.config.recipes import resolve
from genac.runs.store import Run
from genac.scoring import Critic
from genac.stages.pipeline import train
from genac.stages.traces.files import read_traces

RUNNING = {"generative": {"form": "running", "prompt": "compact", "max_new_tokens": 16}}


@pytest.fixture
def run(run_micro) -> Run:
    return run_micro(critic=RUNNING)


def test_all_three_stages_train_it_and_it_is_saved(run, stages, tmp_path):
    metrics = run.metrics("joint")
    assert len(metrics) == 3 and all("critic/reward" in line for line in metrics)
    with pytest.raises(ValueError, match="reads whole responses"):
        Critic.from_pretrained(run.path / "critic")
    # A trace holds each segment behind the note about what stood before it.
    folders = [f for f in stages.glob("traces-*") if (f / "traces.jsonl").exists()]
    traces = [t for f in folders for t in read_traces(f / "traces.jsonl") if t.earlier]
    assert traces
    for trace in traces:
        ends = [end for end, _, _ in trace.earlier]
        assert ends[0] == 0 and ends == sorted(set(ends)) and ends[-1] < len(trace.partial_ids)
        assert trace.earlier[0][1] == ""  # nothing to check yet
        assert all(note.count("\n") <= 1 for _, note, _ in trace.earlier)


def test_a_task_without_checks_and_own_prompts_are_refused(micro, tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text('text: "{problem}{response}{icc}<judge>"\nname: short\n')
    for more, words in (
        ({"prompt": str(own)}, "file of your own"),
        ({"too_long": "truncate"}, "truncate"),
        ({"value_samples": 1}, "value_samples"),
    ):
        with pytest.raises(ValueError, match=words):
            GenerativeConfig(**{**RUNNING["generative"], **more})
    monte_carlo = {"synthesize": {"oracle": "monte_carlo", "continuations": 2}}
    with pytest.raises(ValueError, match="judges single states"):
        train(resolve(micro(critic=RUNNING, stages=monte_carlo)))
