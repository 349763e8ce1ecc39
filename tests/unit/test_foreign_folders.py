"""Run folders that others wrote: all damage is named, nothing hangs, the rest is shown."""

import html
import os
import re
import shutil
from pathlib import Path

import pytest
from foreign_run import EQUAL, ESTIMATES, FILES, LOGS, NAMES, ROLLOUTS, TABLES, at, renamed
from starlette.testclient import TestClient
from viewer_run import make

from genac.cli import main
from genac.runs.numbers import is_number
from genac.runs.store import Run
from genac.ui.examples import trajectories
from genac.ui.report.document import write_report
from genac.ui.report.folder import EXAMPLES, load
from genac.ui.viewer.filters import Filters
from genac.ui.viewer.index import Index
from genac.ui.viewer.server import make_app

REQUESTS = (
    "trajectory/joint/{0}/0/1",
    "tree/joint/{0}/0",
    "export/joint/{0}/0/1?tokens=true&format=md",
    "export/joint/{0}/0/1?tokens=true",
)
AT_ONCE = 10  # damages in one run, each at a step of its own
CHUNKS = [list(TABLES)[i : i + AT_ONCE] for i in range(0, len(TABLES), AT_ONCE)]
WHOLE = 0  # the step that nothing is done to
PROMPTS = ("group", "member", "prompt")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return make(tmp_path_factory.mktemp("foreign") / "run", (0, 10, 20))


@pytest.fixture
def run(finished, tmp_path):
    return Run(shutil.copytree(finished.path, tmp_path / "run"))


@pytest.fixture
def damaged(request, tmp_path):
    """(run, step -> what a notice must name) with one kind of damage per step."""
    run = make(tmp_path / "run", tuple(range(len(request.param) + 1)))
    named = {}
    for step, name in enumerate(request.param, start=1):
        change, words = TABLES[name]
        change(run, step)
        named[step] = tuple(at(word, step) for word in words)
    return run, named


def settle(client):
    """The run in a few words once all steps are read."""
    for _ in range(100):
        answer = client.get("/api/run")
        assert answer.status_code == 200, answer.text
        if answer.json()["indexed"]["done"] == answer.json()["indexed"]["total"]:
            return answer.json()
    raise AssertionError(answer.json())


def holds(notes, words):
    """Whether one notice names all of it."""
    return any(all(word in note for word in words) for note in notes)


def notices(page: str) -> list[str]:
    return [html.unescape(text) for text in re.findall(r'class="note">(.*?)</p>', page)]


@pytest.mark.parametrize("damaged", CHUNKS, indirect=True, ids=lambda c: c[0].replace(" ", "-"))
def test_the_viewer_names_damaged_tables_and_shows_the_rest(damaged):
    run, named = damaged
    with TestClient(make_app(run)) as client:
        settle(client)
        for step in named:
            for path in REQUESTS:
                answer = client.get(f"/api/{path.format(step)}")
                assert answer.status_code == 200, (step, path, answer.text)
            versions = client.get(f"/api/versions/joint/{step}/0/1?start=0")
            assert versions.status_code in (200, 422)  # without estimates there is no state
        assert client.get("/api/rollouts?q=version").status_code == 200
        rows = client.get("/api/rollouts?size=200").json()["rows"]
        notes = settle(client)["missing"]
    for step, words in named.items():
        assert holds(notes, words), (words, notes)
        assert {row["member"] for row in rows if row["step"] == step and row["group"] == 0} >= {1}
    whole = next(r for r in rows if (r["step"], r["group"], r["member"]) == (WHOLE, 0, 1))
    assert whole["values"] == pytest.approx([0.5, 0.8, 0.2], abs=1e-3)
    assert not any(f"-{WHOLE:06d}." in note for note in notes)


@pytest.mark.parametrize("damaged", CHUNKS, indirect=True, ids=lambda c: c[0].replace(" ", "-"))
def test_terminal_and_report_name_damaged_tables_and_show_the_rest(damaged, capsys, monkeypatch):
    run, named = damaged
    monkeypatch.setenv("COLUMNS", "600")
    assert main(["view", "--terminal", str(run.path), "--rows", "200"]) == 0
    assert f"joint/{WHOLE}/0/1" in capsys.readouterr().out
    folder = load(run.path)
    for step, words in named.items():
        assert main(["view", "--terminal", str(run.path), f"joint/{step}/0/1", "--tokens"]) == 0
        assert holds(capsys.readouterr().out.splitlines(), words), words
        rows = folder.table("estimates", ("joint", step), EXAMPLES)
        trajectories(rows, folder.table("rollouts", ("joint", step), PROMPTS))
        shown = {at(ESTIMATES, step): EXAMPLES, at(ROLLOUTS, step): PROMPTS}[words[0]]
        if words[1:] and words[1] in shown:
            assert holds(folder.missing, words), (words, folder.missing)


@pytest.mark.parametrize("name", ["value text", "group large", "a pipe", "junk", "a link out"])
def test_the_page_of_the_report_names_a_damaged_table(run, name):
    change, words = TABLES[name]
    change(run, 20)
    page = write_report(run.path).read_text()
    assert holds(notices(page), [at(word, 20) for word in words])


def test_columns_of_equal_meaning_are_read_without_a_word(tmp_path):
    run = make(tmp_path / "run", tuple(range(len(EQUAL) + 1)))
    for step, change in enumerate(EQUAL.values(), start=1):
        change(run, step)
    index = Index(run)
    index.refresh()
    rows = index.page(Filters(sort="step", ascending=True, size=200))["rows"]
    keys = ("group", "member", "problem_id", "reward", "states", "missing", "length", "finish")
    first = [{key: row[key] for key in keys} for row in rows if row["step"] == WHOLE]
    for step, name in enumerate(EQUAL, start=1):
        same = [row for row in rows if row["step"] == step]
        assert [{key: row[key] for key in keys} for row in same] == first, name
        assert same[1]["values"] == pytest.approx([0.5, 0.8, 0.2], abs=1e-3), name
        one = run.trajectory(step, 0, 1)
        assert one.problems == () and one.tokens is not None and one.logprobs is not None, name
        assert one.steps[0].text == "t10 t11 " and one.steps[0].rationale.startswith("step 0")
    assert index.notes() == []


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_files_with_strange_names_are_named_and_the_rest_is_shown(run, name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "600")
    renamed(name)(run, 10)
    with TestClient(make_app(run)) as client:
        assert holds(settle(client)["missing"], ["estimates/", "STAGE-STEP.parquet"])
        assert client.get("/api/rollouts").json()["total"] == 12
    assert main(["view", "--terminal", str(run.path)]) == 0
    notes = capsys.readouterr().out
    assert "STAGE-STEP.parquet" in notes and "\x1b[2J" not in notes
    assert holds(notices(write_report(run.path).read_text()), ["STAGE-STEP.parquet"])


@pytest.mark.parametrize("stage", ["[bold]", "[@click=x]", "joint*", 'a"b', "é ü", "a\nb"])
def test_stages_of_any_name_are_shown(run, stage, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "600")
    renamed(f"{stage}-000010.parquet")(run, 10)
    with TestClient(make_app(run)) as client:
        assert settle(client)["missing"] == []
        assert client.get("/api/rollouts?q=version").json()["total"] == 16
        for path in REQUESTS:
            address = path.format(10).replace(
                "joint", stage.replace("%", "%25").replace("\n", "%0A")
            )
            assert client.get(f"/api/{address}").status_code == 200, address
    assert main(["view", "--terminal", str(run.path)]) == 0
    assert stage.replace("\n", "␊") in capsys.readouterr().out


@pytest.mark.parametrize("name", LOGS)
def test_lines_of_a_log_that_are_no_metrics_are_named_and_the_others_shown(run, name):
    change, words = LOGS[name]
    change(run, 10)
    index = Index(run)
    index.refresh()
    assert holds(index.notes(), ["metrics.jsonl", *words]), index.notes()
    page = write_report(run.path).read_text()
    assert holds(notices(page), ["metrics.jsonl", *words]), notices(page)
    assert '"points":[[0,0.5,null,null,1],[10,0.5,null,null,1],[20,0.5' in page


def test_events_that_are_none_are_named(run):
    (run.path / "events.jsonl").write_text(
        '{"kind": "alarm", "stage": "joint", "step": Infinity, "alarm": ["a"]}\n{"kind": 3}\n[]\n'
    )
    notes = load(run.path).missing
    assert holds(notes, ["events.jsonl", "step", "a whole number"])
    assert holds(notes, ["events.jsonl", "kind", "text"]) and holds(notes, ["events.jsonl line 3"])
    write_report(run.path)


@pytest.mark.parametrize("name", FILES)
def test_files_of_another_kind_are_named_and_the_rest_is_shown(run, name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "600")
    change, words = FILES[name]
    change(run, 20)
    with TestClient(make_app(run)) as client:
        assert holds(settle(client)["missing"], words)
        assert client.get("/api/rollouts").json()["total"] == 12
    assert main(["view", "--terminal", str(run.path)]) == 0
    assert holds(capsys.readouterr().out.splitlines(), words)
    assert holds(notices(write_report(run.path).read_text()), words)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "estimates", at(ESTIMATES, 20)])
def test_files_that_may_not_be_read_are_named(run, name):
    (run.path / name).chmod(0)
    try:
        with TestClient(make_app(run)) as client:
            assert holds(settle(client)["missing"], [name])
        assert holds(notices(write_report(run.path).read_text()), [name])
    finally:
        (run.path / name).chmod(0o755)


def test_damaged_judgements_are_named_and_the_runs_own_are_shown(run):
    for name, data in (("bad", b"junk"), ("² odd", b"junk")):
        (run.path / "judged" / name).mkdir(parents=True)
        (run.path / "judged" / name / "joint-000010.parquet").write_bytes(data)
    with TestClient(make_app(run)) as client:
        settle(client)
        answer = client.get("/api/versions/joint/10/0/1", params={"start": 2})
        assert [state["critic_version"] for state in answer.json()] == [20, 10, 0]
        assert holds(settle(client)["missing"], ["judged/bad"])


HUGE = "9" * 400


def test_a_summary_of_any_shape_makes_a_report(run):
    (run.path / "summary.json").write_text(
        '{"success_after": 1e999, "success_before": {"mean": -Infinity, "low": [], "high": "x"}, '
        f'"critic": {{"mse": {HUGE}, "calibration": [{{"predicted": 1e308, "actual": NaN, '
        '"count": 1e308}, {"predicted": Infinity, "actual": 1, "count": 2}, {"predicted": 1e299, '
        '"actual": 1, "count": 2}], "stages": {"rl": [1], "sft": "x"}}, "tokens": {"a": 1e999, '
        f'"b": {HUGE}}}, "seconds": {{"a": -1e999}}, "flops": [1e999]}}'
    )
    assert "No final evaluation yet" in write_report(run.path).read_text()


NO_NUMBERS = [True, float("nan"), float("inf"), 10**400, -(10**400), "1", None, [1], {}]


def test_a_number_is_one_that_can_be_computed_with():
    assert is_number(1) and is_number(-0.5) and is_number(1e299)
    assert [value for value in NO_NUMBERS if is_number(value)] == []


ADDRESSES = [
    f"trajectory/joint/{10**30}/0/0",
    f"trajectory/joint/10/{10**30}/0",
    f"tree/joint/10/{-(10**9)}",
    f"rollouts?step_min={10**60}",
    f"rollouts?page={10**30}",
    "rollouts?min_gap=nan",
    "trajectory/%00/10/0/0",
    "rollouts?stage=%ff",
    f"trajectory/joint/{'9' * 5000}/0/0",
]


@pytest.mark.parametrize("path", ADDRESSES, ids=lambda path: path[:30])
def test_impossible_addresses_are_refused_in_words(run, path):
    with TestClient(make_app(run)) as client:
        settle(client)
        answer = client.get(f"/api/{path}")
    assert answer.status_code in (200, 404, 422), answer.text


def test_a_log_that_grows_and_shrinks_is_watched_from_where_it_was(run):
    index = Index(run)
    index.refresh()
    assert index.notes() == []
    with open(run.path / "metrics.jsonl", "a") as file:
        file.write('{"stage": "joint", "st')  # half a line is no fault
    index.refresh()
    assert index.notes() == []
    with open(run.path / "metrics.jsonl", "a") as file:
        file.write('ep": "x"}\n')
    index.refresh()
    assert holds(index.notes(), ["metrics.jsonl", "step", "line 4"])
    (run.path / "metrics.jsonl").write_text("")
    index.refresh()
    assert index.notes() == []


def test_a_link_to_the_whole_run_is_followed(run):
    other = run.path.with_name("linked")
    other.symlink_to(run.path)
    index = Index(Run(other))
    index.refresh()
    assert index.notes() == [] and index.page(Filters())["total"] == 12
    assert Path(write_report(other)).exists() and load(other).missing == load(run.path).missing
