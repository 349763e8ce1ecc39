"""Names of earlier versions are refused with today's, and nothing else is guessed at."""

import json
from pathlib import Path

import pytest

from genac.config import renamed
from genac.config.recipes import resolve
from genac.config.renamed import Parser, called_now, older
from genac.critics import critic_class
from genac.runs.checked import read_checked
from genac.runs.lines import read_log
from genac.runs.tables import ESTIMATE_COLUMNS, encode
from paper.plan import results_folder


def test_a_hint_is_given_for_names_that_are_accepted_today():
    known = ["paper", "prefix-first"]
    hint = "; 'trunk-first' is called 'prefix-first' now"
    assert called_now("critic.generative.prompt", "trunk-first", known) == hint
    assert called_now("critic.generative.prompt", "trunk-first", ["paper"]) == ""
    assert called_now("critic.generative.prompt", "long", known) == ""


def test_an_old_kind_of_critic_is_refused_with_its_name_of_today():
    with pytest.raises(ValueError, match="'exact' is called 'actor_likelihood' now"):
        critic_class("exact")


def test_an_old_key_is_refused_with_its_name_of_today(monkeypatch):
    monkeypatch.setitem(renamed.RENAMED, "key", {"actor.modl": "actor.model_name_or_path"})
    with pytest.raises(ValueError) as error:
        resolve({"actor": {"modl": "m", "other": 1}})
    first, second = sorted(str(error.value).splitlines())
    assert first == (
        "actor.modl: unknown key; 'actor.modl' is called 'actor.model_name_or_path' now"
    )
    assert second == "actor.other: unknown key; 'genac train --help-all' lists the known ones"


@pytest.mark.parametrize("given", [["--thoughts", "3"], ["--thoughts=3"]])
def test_an_old_option_is_refused_with_its_name_of_today(given, capsys):
    parser = Parser(prog="genac generate")
    parser.add_argument("--rationales", type=int)
    with pytest.raises(SystemExit):
        parser.parse_args(given)
    said = capsys.readouterr().err
    assert "unknown option --thoughts; '--thoughts' is called '--rationales' now" in said
    assert parser.parse_args(["--rationales", "3"]).rationales == 3


def test_a_log_with_old_metrics_is_shown_and_says_so(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(renamed.RENAMED, "metric", {"critic/old": "critic/new"})
    lines = [{"stage": "joint", "step": i, "critic/old": 1.0, "loss": 2.0} for i in range(2)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(o) + "\n" for o in lines))
    log = read_log(tmp_path, "metrics.jsonl")
    assert [line["loss"] for line in log.lines] == [2.0, 2.0]
    (problem,) = log.problems()
    assert "metrics.jsonl: the metric critic/old is called critic/new now" in problem


def test_a_table_with_old_columns_is_shown_and_says_so(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(renamed.RENAMED, "column", {"old": "rationale"})
    columns = {**{k: ESTIMATE_COLUMNS[k] for k in ("group", "member", "start", "end")}}
    (tmp_path / "estimates").mkdir()
    file = tmp_path / "estimates" / "joint-000000.parquet"
    file.write_bytes(encode([(0, 0, 0, 2, "x")], {**columns, "old": "string"}))
    table, problems = read_checked(tmp_path, "estimates", ("joint", 0))
    assert len(table) == 1 and "the column old is called rationale now" in problems[0]
    assert older("column", ["value"]) == []


def test_work_of_an_experiment_under_an_old_name_is_named(tmp_path, monkeypatch):
    folder = results_folder(tmp_path)
    monkeypatch.setitem(renamed.RENAMED, "experiment folder", {"old": folder.name})
    (tmp_path / "old").mkdir()
    with pytest.raises(ValueError, match=f"older version, which is called {folder.name} now"):
        results_folder(tmp_path)
    folder.mkdir()
    assert results_folder(tmp_path) == folder
