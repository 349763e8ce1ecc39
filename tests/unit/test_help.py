"""Help, version and slips answer at once: nothing heavy is imported before arguments are known."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import genac
from genac.cli import EVALUATIONS, GROUPS, VERBS, main, usage
from genac.commands.parsers import DATA_SETS
from genac.config.arguments import keys, near
from genac.config.keys import OFTEN, as_options, nested
from genac.config.packaged import packaged, recipe_file
from genac.config.recipes import from_command_line, parse, read_recipe, resolve
from genac.config.run import RunConfig
from genac.tasks.sources import BENCHMARKS

# Runs commands in one fresh process; says for each how it ended and what it had imported by then.
SCRIPT = """
import contextlib, io, json, sys
from genac.cli import main
for line in json.loads(sys.argv[1]):
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            code = main(line)
        except SystemExit as error:
            code = error.code or 0
    heavy = sorted({"numpy", "torch", "transformers"} & set(sys.modules))
    print(json.dumps([line, code, heavy, out.getvalue()]))
"""
API = "https://api.example.com/v1"
ORACLE = (
    *("--stages.synthesize.oracle", "endpoint", "--stages.synthesize.endpoint.model", "m"),
    *("--stages.synthesize.endpoint.base_url", API),
)
HELP = [[verb, "--help"] for verb in VERBS] + [["eval", kind, "--help"] for kind in EVALUATIONS]


def ended(lines: list[list[str]]) -> list[tuple[list[str], int, list[str], str]]:
    arguments = [sys.executable, "-c", SCRIPT, json.dumps(lines)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    return [tuple(json.loads(row)) for row in done.stdout.splitlines()]


def test_every_help_succeeds_without_numpy_and_torch():
    for line, code, heavy, text in ended([[], ["--help"], ["--version"], ["help", "ls"], *HELP]):
        assert (code, heavy) == (0, []), (line, text)
        assert "genac" in text
        assert max(map(len, text.splitlines())) <= 100, line


def test_slips_are_refused_without_torch(tmp_path: Path):
    slips = {
        ("trian",): "did you mean train?",
        ("train", "arithmetc"): "did you mean arithmetic?",
        ("train", "arithmetic", "--lerning_rate", "1"): "did you mean --actor.optimizer",
        ("train", "arithmetic", "rollout.num_promts=4"): "did you mean --rollout.num_prompts",
        ("train", "own-data", "--task.path", "none.jsonl"): "'none.jsonl' does not exist",
        ("train", "arithmetic", "--task.name", "file"): "task.path is not set",
        ("train", "arithmetic", "--task.options", "{steps: 3}"): "task.options.steps is no option",
        ("train", "arithmetic", "--output_dir", str(tmp_path), *ORACLE): "has no api_key_env",
        ("eval", "solutions", f"openai:m@{API}", "rows.jsonl"): f"endpoint {API} has no api_key",
        ("eval", "solutions", "openai:m", "rows.jsonl"): "openai:MODEL@URL",
        ("eval", "benchmark"): "did you mean eval benchmarks?",
        ("eval", "critic"): "required: RUN",
        ("eval", "critic", str(tmp_path)): "holds no run",
        ("eval", "critic", "--porblems", "3", "run"): "did you mean --problems?",
        ("score", "critic"): "required: problem, partial",
        ("generate",): "required: actor",
        ("push", "run"): "required: repo_id",
        ("serve",): "required: critic",
        ("report",): "required: RUN",
    }
    for line, code, heavy, text in ended([list(slip) for slip in slips]):
        assert (code, set(heavy) - {"numpy"}) == (2, set()), (line, text)
        assert slips[tuple(line)] in text, (line, text)


def test_verbs_stand_in_groups_on_80_columns():
    text = usage()
    assert all(f"\n{title}:\n" in text for title in GROUPS)
    assert all(f"\n  {verb}" in text for verb in VERBS)
    assert max(map(len, text.splitlines())) <= 80


def test_python_m_genac_is_the_command_line():
    done = subprocess.run(
        [sys.executable, "-m", "genac", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"genac {genac.__version__}\n"


def test_short_help_shows_the_keys_that_people_change_with_the_recipes_values(capsys):
    with pytest.raises(SystemExit):
        parse(["arithmetic", "--help"], "genac train")
    text = capsys.readouterr().out
    assert len(OFTEN) == 15
    assert all(f"--{key} " in text for key in OFTEN)
    assert "--stages.joint.steps N  (default: 40)" in text and "--states.window" not in text
    with pytest.raises(SystemExit):
        parse(["arithmetic", "--help-all"], "genac train")
    assert "--states.window N  (default: 64)" in capsys.readouterr().out


def test_print_config_is_the_whole_config(capsys):
    with pytest.raises(SystemExit):
        parse(["arithmetic", "--seed", "5", "--print-config"], "genac train")
    values = yaml.safe_load(capsys.readouterr().out)
    assert resolve(values) == from_command_line(["arithmetic", "seed=5"], "")


def test_what_differs_from_the_recipe_is_reported_by_key():
    parsed = parse(["arithmetic", "--algorithm", "grpo", "stages.joint.steps=3"], "")
    assert parsed.lines() == [f"  stages.joint.steps: {parsed.plain.stages.joint.steps} -> 3"], (
        "what the algorithm brings is the recipe's"
    )
    assert parse(["arithmetic"], "").lines() == []


def test_pairs_of_hydra_and_trls_config_flag_are_understood(tmp_path: Path):
    (tmp_path / "r.yaml").write_text("name: mine\n")
    cfg = from_command_line(["--config", str(tmp_path / "r.yaml"), "algorithm=grpo"], "")
    assert (cfg.name, cfg.algorithm, cfg.critic.kind) == ("mine", "grpo", "none")
    cfg = from_command_line(["rollout.num_prompts=3", "task.options.min_steps=2"], "")
    assert (cfg.rollout.num_prompts, cfg.task.options) == (3, {"min_steps": 2})
    pairs = ["--name", "a=b", "seed=2", "--critic.share_base", "seed=3", "--seed=1", "name=x"]
    assert as_options(pairs) == [
        "--name", "a=b", "--seed=2", "--critic.share_base", "--seed=3", "--seed=1", "--name=x"
    ]  # fmt: skip


def test_overrides_may_be_dotted_in_python():
    cfg = resolve(read_recipe("arithmetic"), {"actor.optimizer.learning_rate": 1e-5, "seed": 3})
    assert (cfg.actor.optimizer.learning_rate, cfg.seed) == (1e-5, 3)
    assert nested({"a.b": 1, "a": {"c": 2}}) == {"a": {"b": 1, "c": 2}}


def test_a_misspelt_key_of_a_recipe_names_the_near_one():
    with pytest.raises(ValueError, match=r"num_promts: unknown key; did you mean rollout\.num_pr"):
        resolve({"rollout": {"num_promts": 4}})
    assert near("learning_rate", dict(keys(RunConfig))).startswith(
        "; did you mean actor.optimizer.learning_rate"
    )
    assert near("nothing.like.it", ["seed"]) == ""


def test_packaged_recipes_are_listed_and_a_users_file_wins(tmp_path, monkeypatch, capsys):
    assert main(["recipes"]) == 0
    text = capsys.readouterr().out
    assert all(f"{name}\n    " in text for name in packaged())
    assert main(["recipes", "arithmetic"]) == 0
    assert capsys.readouterr().out.startswith("# ")
    monkeypatch.chdir(tmp_path)
    assert recipe_file("arithmetic") == recipe_file("recipes/arithmetic.yaml")
    (tmp_path / "arithmetic").write_text("name: mine\n")
    assert read_recipe("arithmetic") == {"name": "mine"}


def test_files_that_a_packaged_recipe_names_are_the_packages_outside_a_clone(tmp_path, monkeypatch):
    at_home = resolve(read_recipe("smollm2-word-problems")).critic.generative.prompt
    monkeypatch.chdir(tmp_path)
    assert resolve(read_recipe("smollm2-word-problems")).critic.generative.prompt == at_home
    path = Path(read_recipe("own-data")["task"]["path"])
    assert path.is_absolute() and path.is_file()
    (tmp_path / "recipes" / "data").mkdir(parents=True)
    (tmp_path / "recipes" / "data" / path.name).write_text("")
    assert read_recipe("own-data")["task"]["path"] == f"recipes/data/{path.name}"


def test_the_public_names_are_listed():
    assert {"RunConfig", "Critic", "train", "__version__"} <= set(dir(genac))


def test_a_public_name_that_is_none_names_what_was_meant():
    with pytest.raises(AttributeError, match=r"'Trainr'; did you mean Trainer\?"):
        _ = genac.Trainr
    with pytest.raises(AttributeError, match=r"no attribute 'zzz'$"):
        _ = genac.zzz
    with pytest.raises(ImportError, match=r"genac\.Trainer has .* genac\.integrations\.trl\.GenAC"):
        from genac import GenACTrainer  # noqa: F401


def test_help_names_the_data_sets_that_are_usual():
    assert ", ".join(BENCHMARKS) == DATA_SETS


def test_a_pair_follows_a_flag_that_takes_no_value_and_may_be_long(capsys):
    with pytest.raises(SystemExit):
        parse(["arithmetic", "--print-config", "seed=3"], "")
    assert "\nseed: 3\n" in capsys.readouterr().out
    assert parse(["arithmetic", "--critic.no_share_base", "seed=3"], "").cfg.seed == 3
    text = "word " * 100  # longer than a file's name may be
    assert parse(["arithmetic", f"name={text}"], "").cfg.name == text
    with pytest.raises(ValueError, match="there is no recipe"):
        parse([text], "")


def test_free_form_settings_that_are_no_yaml_are_refused_by_name():
    with pytest.raises(ValueError, match=r"--task.options.system: 'a: b: c' is no valid YAML"):
        parse(["arithmetic", "--task.options.system", "a: b: c"], "")


def test_a_recipe_may_need_the_rest_of_the_command_line(tmp_path: Path):
    (tmp_path / "r.yaml").write_text("critic: {kind: none}\n")  # not GenAC, its default
    parsed = parse([str(tmp_path / "r.yaml"), "--critic.kind", "generative"], "")
    assert parsed.cfg.critic.kind == "generative"
    assert parsed.lines() == []


def test_problems_and_solutions_may_begin_with_a_minus_sign(tmp_path: Path, capsys):
    for texts in (["-3+9=", "-x=6"], ["3-9=", "-6"]):
        assert main(["score", str(tmp_path), *texts]) == 2
        assert str(tmp_path) in capsys.readouterr().err


@pytest.mark.parametrize(
    ("values", "meant"),
    [
        ({"rolout": {"num_prompts": 3}}, "rollout"),
        ({"actor": {"optimiser": {"learning_rate": 1}}}, "actor.optimizer"),
        ({"stages": {"jont": {"steps": 3}}}, "stages.joint"),
    ],
)
def test_a_misspelt_section_names_the_near_one(values, meant):
    with pytest.raises(ValueError, match=f"unknown key; did you mean {meant};"):
        resolve(values)
