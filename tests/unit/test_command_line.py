"""Texts and paths of the command line and of recipes mean what was typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from genac.cli import main, own_paths
from genac.config.algorithms import ALGORITHMS, PRESETS
from genac.config.recipes import from_command_line, read_recipe, recorded, resolve, typed_text
from genac.config.run import CreditConfig, RunConfig, TaskConfig
from genac.models.loading import load_model, load_tokenizer
from genac.models.tiny import save_tiny
from genac.scoring import Critic
from genac.trainer import Trainer


@pytest.mark.parametrize(
    ("typed", "text"),
    [
        (r"2+3=5\n", "2+3=5\n"),
        (r"2+3=5\n\n4", "2+3=5\n\n4"),
        (r"x\n 2\n(3)\n\frac", "x\n 2\n(3)\n\\frac"),
        (r"a \neq b, \nu, \nabla f, \norm{x}\n", "a \\neq b, \\nu, \\nabla f, \\norm{x}\n"),
        (r"\notin\n$x \ne y$", "\\notin\n$x \\ne y$"),
        (r"1 \\n & 2", "1 \\\\n & 2"),  # a row's end and a variable
        ("real\nnew line", "real\nnew line"),
        (r"\t \r \N", "\\t \\r \\N"),
        ("\\n", "\n"),
        ("", ""),
    ],
)
def test_a_line_break_is_none_before_a_letter(typed, text):
    assert typed_text(typed) == text


def test_what_may_have_been_meant_as_a_line_break_is_warned_of(capsys):
    typed_text(r"a+3=9\nb*7=3\n")
    assert r"\nb stays as it is" in capsys.readouterr().err
    typed_text(r"a+3=9\n")
    assert not capsys.readouterr().err


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_every_path_of_a_config_may_begin_at_home(home):
    values = {
        "output_dir": "~/run",
        "task": {
            "name": "file",
            "path": "~/a.jsonl",
            "reward": "0.5 * ~/r.py:score + 0.5 * verl:~/v.py:compute_score",
            "options": {"heldout": "~/h.jsonl", "decontaminate": ["~/d", "math500"]},
            "shift": {"far": {"heldout": "~/f"}},
        },
        "actor": {"model_name_or_path": "~/actor"},
        "critic": {"model_name_or_path": "~/critic"},
        "stages": {"folder": "~/stages"},
    }
    for cfg in (resolve(values), RunConfig(**values)):
        assert "~" not in yaml.safe_dump(cfg.model_dump())
        assert cfg.task.path == f"{home}/a.jsonl"
        assert cfg.task.reward == (
            f"0.5 * {home}/r.py:score + 0.5 * verl:{home}/v.py:compute_score"
        )
        assert cfg.task.options["decontaminate"] == [f"{home}/d", "math500"]
        assert (cfg.output_dir, cfg.stages.folder) == (f"{home}/run", f"{home}/stages")
    assert TaskConfig(reward="~/r.py:score").reward == f"{home}/r.py:score"


@pytest.mark.parametrize("text", ["~5 apples", "~", "a ~/b", "~/", "x~/y"])
def test_a_text_that_is_no_path_stays(home, text):
    options = TaskConfig(options={"instruction": text}).options
    assert options["instruction"] == (text if text != "~/" else f"{home}/")


def test_recipes_and_flags_at_home(home):
    (home / "r.yaml").write_text("output_dir: ~/run\nresults: ~/table\n")
    assert read_recipe("~/r.yaml")["results"] == f"{home}/table"
    (home / "r.yaml").write_text("output_dir: ~/run\n")
    cfg = from_command_line(
        ["~/r.yaml", "--task.path=~/a.jsonl", "--task.options.heldout", "~/h"], ""
    )
    assert (cfg.output_dir, cfg.task.path) == (f"{home}/run", f"{home}/a.jsonl")
    assert cfg.task.options == {"heldout": f"{home}/h"}
    with pytest.raises(ValueError, match=f"no {home}/run/actor"):
        from_command_line(["--from", "~/run"], "")


def test_paths_of_verbs_are_expanded_and_their_texts_are_not(home, capsys):
    assert own_paths(["view", "~/run", "--host", "x"]) == [f"{home}/run", "--host", "x"]
    assert own_paths(["eval", "critic", "~/run", "~/critic"]) == [
        "critic", f"{home}/run", f"{home}/critic"
    ]  # fmt: skip
    assert own_paths(["score", "~/critic", "~/x?", "~/y"]) == [f"{home}/critic", "~/x?", "~/y"]
    assert own_paths(["generate", "~/run", "~/x?", "--critic=~/c"]) == [
        f"{home}/run", "~/x?", f"--critic={home}/c"
    ]  # fmt: skip
    assert main(["score", "~/critic", "2+3?", "5"]) == 2
    assert f"critic: there is no '{home}/critic' here" in capsys.readouterr().err


def test_models_at_home(home):
    save_tiny(home / "m", ["a"], max_length=8, hidden_size=8, layers=1, heads=1, seed=0)
    assert load_tokenizer("~/m").name_or_path == f"{home}/m"
    assert load_model("~/m").config.max_position_embeddings == 8
    with pytest.raises(ValueError, match=f"{home}/m holds no critic.json"):
        Critic.from_pretrained("~/m")


def test_keys_of_the_command_line_are_read_by_their_type():
    cfg = from_command_line(
        ["--rollout.num-prompts", "4", "--rollout.temperature=1e-1", "--report_to", "wandb",
         "mlflow", "--actor.loss.no_mask_truncated_completions",
         "--actor.optimizer.gradient_checkpointing",
         "--hardware.vllm.args", "[--seed, 3]", "--hardware.vllm.kv_cache_gb", "None",
         "--task.shift", "{far: {max_steps: 9}}", "--evaluate.panel_problems", "0", "--seed", "7"],
        "",
    )  # fmt: skip
    assert (cfg.rollout.num_prompts, cfg.rollout.temperature, cfg.seed) == (4, 0.1, 7)
    assert cfg.report_to == ["wandb", "mlflow"] and cfg.hardware.vllm.kv_cache_gb is None
    assert cfg.actor.optimizer.gradient_checkpointing
    assert not cfg.actor.loss.mask_truncated_completions
    assert cfg.task.shift == {"far": {"max_steps": 9}} and cfg.evaluate.panel_problems == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rollout.num_promts", "3"], "unknown key; did you mean --rollout.num_prompts"),
        (["--rollout.num_prompts", "0"], r"^rollout.num_prompts: .*greater.*\(given: '0'\)$"),
        (["--seed", "--name", "x"], "^--seed needs a value$"),
        (["--critic.kind", "none", "--algorithm", "ppo"], "^algorithm is 'ppo', but critic.kind"),
        (["--report_to", "paper"], r"report_to.0: .*wandb.*\(given: 'paper'\)"),
        (["--hardware.vllm.args", "[--seed"], "is no valid YAML"),
        (["--seed", "1", "now"], "'now' belongs to no key"),
    ],
)
def test_a_bad_key_of_the_command_line_is_one_plain_message(arguments, message):
    with pytest.raises(ValueError, match=message):
        from_command_line(arguments, "")


def test_help_lists_the_keys_with_the_values_that_were_typed(capsys):
    with pytest.raises(SystemExit) as stop:
        from_command_line(["--seed", "41", "--help"], "genac train")
    assert stop.value.code == 0 and "(default: 41)" in capsys.readouterr().out


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("preset", ["paper", "improved"])
def test_a_config_made_in_python_is_what_its_name_says(algorithm, preset):
    names: dict = {"algorithm": algorithm, "preset": preset}
    assert RunConfig(**names) == resolve(names)
    assert RunConfig(**RunConfig(**names).model_dump()) == RunConfig(**names)


def test_what_is_set_wins_over_the_algorithm_and_the_rest_of_its_section_stays():
    for credit in (CreditConfig(gamma=0.9), {"gamma": 0.9}):
        cfg = RunConfig(algorithm="grpo", credit=credit)  # pyright: ignore[reportArgumentType]
        assert (cfg.critic.kind, cfg.credit.estimator) == ("none", "group_mean")
        assert (cfg.credit.gamma, cfg.credit.scale_rewards) == (0.9, "group")
    improved = PRESETS["improved"]["critic"]["generative"]
    assert improved["readout"] == RunConfig().critic.generative.readout == "expected"


@pytest.mark.parametrize(
    ("algorithm", "key", "value", "message"),
    [
        ("grpo", "critic.kind", "generative", "'none', .*kind out, or set algorithm to 'genac'$"),
        ("grpo", "critic.kind", "actor_likelihood", "'none', .* leave critic.kind out$"),
        ("grpo", "credit.estimator", "batch_mean", "'group_mean', .*'reinforce\\+\\+'$"),
        ("rloo", "credit.estimator", "gae", "'leave_one_out', .* 'genac' or 'ppo' or 'vineppo'$"),
        ("genac", "credit.estimator", "group_mean", "'gae', .* algorithm to 'grpo'$"),
        ("genac", "critic.kind", "none", "'generative', .* 'grpo' or 'rloo' or"),
        ("genac", "critic.kind", "discriminative", "'generative', .* algorithm to 'ppo'$"),
        ("ppo", "critic.kind", "monte_carlo", "'discriminative', .* algorithm to 'vineppo'$"),
    ],
)
def test_a_method_under_the_name_of_another_is_refused(algorithm, key, value, message, tmp_path):
    section, name = key.split(".")
    start = f"^algorithm is {algorithm!r}, but {key} is {value!r} and not "
    own: dict = {"algorithm": algorithm, section: {name: value}}
    with pytest.raises(ValueError, match=start[1:] + message.rstrip("$")):
        RunConfig(**own)
    (tmp_path / "r.yaml").write_text(json.dumps(own))
    (tmp_path / "p.yaml").write_text(json.dumps({"per_algorithm": {algorithm: own}}))
    dotted = ["--algorithm", algorithm, f"--{key}", value]
    for arguments in ([str(tmp_path / "r.yaml")], [str(tmp_path / "p.yaml"), *dotted[:2]], dotted):
        with pytest.raises(ValueError, match=start + message):
            from_command_line(arguments, "")
    for args in ({"algorithm": algorithm, key: value}, own):
        with pytest.raises(ValueError, match=start + message):
            Trainer(args=args)


def test_a_run_that_is_there_opens_whatever_it_called_itself():
    values = {"algorithm": "genac", "critic": {"kind": "discriminative"}}
    assert recorded("runs/older", values).critic.kind == "discriminative"
    with pytest.raises(ValueError, match=r"runs/older does not fit this version"):
        recorded("runs/older", values | {"critic": {"kind": "none", "share_base": 3}})


@pytest.mark.parametrize(
    "keys",
    [
        {"algorithm": "vineppo", "critic.kind": "actor_likelihood"},  # exact values
        {"algorithm": "ppo", "credit.granularity": "states"},
        {"algorithm": "grpo", "credit.scale_rewards": "none"},
        {"algorithm": "genac", "critic.kind": "my_own"},  # of a class in CRITICS
        {"algorithm": "grpo", "critic.model_name_or_path": "a/b"},  # of a recipe for all methods
    ],
    ids=str,
)
def test_what_an_algorithm_leaves_open_can_be_set(keys):
    cfg = resolve({}, keys)
    assert cfg.algorithm == keys["algorithm"]
    assert RunConfig(**cfg.model_dump()) == cfg
