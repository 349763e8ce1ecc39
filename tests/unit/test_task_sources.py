"""Data sets: schemas of the known ones, local copies, verl's files, what is missing offline."""

from __future__ import annotations

import pickle

import pyarrow
import pyarrow.parquet
import pytest

from genac.tasks.files import FileTask
from genac.tasks.overlap import shared
from genac.tasks.sources import BENCHMARKS, SOURCES, columns, rows

datasets = pytest.importorskip("datasets")

# The first row of each, as its card describes the columns, with a problem of our own.
SCHEMAS = {
    "gsm8k": {"question": "Ann has 3 pens and buys 4.", "answer": "3 + 4 = <<3+4=7>>7\n#### 7"},
    "math": {"problem": "3 + 4?", "level": "Level 1", "type": "Algebra",
             "solution": r"We add: $\boxed{7}$."},
    "deepscaler": {"problem": "3 + 4?", "answer": "7", "solution": "It is 7."},
    "dapo-math": {"prompt": "3 + 4?", "solution": "7", "data_source": "math_dapo",
                  "source_prompt": [{"role": "user", "content": "Solve ..."}],
                  "ability": "MATH", "reward_model": {"ground_truth": "7", "style": "rule"},
                  "extra_info": {"index": "a"}},
    "aime24": {"id": 60, "problem": "3 + 4?", "solution": "...", "answer": "007", "url": "u",
               "year": "2024"},
    "aime25": {"problem": "3 + 4?", "answer": "7", "id": "0"},
    "amc23": {"id": 0, "question": "3 + 4?", "answer": "7.0", "url": "u"},
    "math500": {"problem": "3 + 4?", "solution": "...", "answer": "7", "subject": "Algebra",
                "level": 1, "unique_id": "test/algebra/1.json"},
    "minerva": {"question": "3 + 4?", "answer": "7"},
    "olympiad": {"id": 1, "question": "3 + 4?", "solution": ["..."], "final_answer": ["7"],
                 "context": None, "is_multiple_answer": False, "unit": None},
}  # fmt: skip


def saved(tmp_path, data: list[dict], name: str = "copy") -> str:
    folder = tmp_path / name
    datasets.Dataset.from_list(data).save_to_disk(folder)
    return str(folder)


@pytest.mark.parametrize("name", sorted(SCHEMAS))
@pytest.mark.parametrize("reward", ["match", "math"])
def test_a_local_copy_of_every_known_set(tmp_path, name, reward):
    row = SCHEMAS[name]
    assert columns(row, name, None, None, SOURCES[name]) == (
        SOURCES[name].prompt,
        SOURCES[name].answer,
    )
    source = SOURCES[name]
    task = FileTask(
        saved(tmp_path, [row]),
        heldout_fraction=0.0,
        prompt_column=source.prompt,
        answer_column=source.answer,
        reward=reward,
    )
    problem = task.problem("train", 0)
    assert "3" in problem.text and "4" in problem.text
    assert task.verify(problem, r"so the answer is \boxed{7}") == 1.0
    assert task.verify(problem, r"so the answer is \boxed{8}") == 0.0


def test_the_six_benchmarks_are_known():
    assert len(BENCHMARKS) == 6
    assert set(BENCHMARKS) < set(SOURCES)


def test_columns_are_detected_by_their_usual_names(tmp_path):
    path = saved(tmp_path, [{"question": "3 + 4?", "ground_truth": "7"}])
    problem = FileTask(path, 0.0).problem("train", 0)
    assert (problem.prompt, problem.answer) == ("3 + 4?", "7")
    with pytest.raises(ValueError, match=r"no 'prompt', only \['text'\]; set .*prompt_column"):
        FileTask(saved(tmp_path, [{"text": "a"}], "other"))


def test_a_split_of_a_saved_dictionary_and_of_a_folder_of_files(tmp_path):
    row = {"prompt": "3 + 4?", "answer": "7"}
    whole = datasets.DatasetDict(
        {
            "train": datasets.Dataset.from_list([row]),
            "test": datasets.Dataset.from_list([row | {"prompt": "test?"}]),
        }
    )
    whole.save_to_disk(tmp_path / "both")
    assert rows(str(tmp_path / "both"), "test")[0]["prompt"] == "test?"
    with pytest.raises(ValueError, match=r"split 'dev' could not be loaded .*save_to_disk"):
        rows(str(tmp_path / "both"), "dev")
    folder = tmp_path / "files"
    folder.mkdir()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), folder / "train.parquet")
    assert rows(str(folder)) == [row]


def test_verl_rows_need_no_conversion(tmp_path):
    chat = [{"role": "user", "content": "3 + 4?"}]
    row = {
        "data_source": "lab/sums",
        "prompt": chat,
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": "7"},
        "extra_info": {"index": 3, "split": "train"},
    }
    path = tmp_path / "train.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), path)
    problem = FileTask(str(path), 0.0).problem("train", 0)
    assert (problem.prompt, problem.answer) == (chat, "7")
    assert problem.extras["data_source"] == "lab/sums"
    assert problem.extras["extra_info"] == {"index": 3, "split": "train"}


def test_offline_says_what_was_looked_for(tmp_path, monkeypatch):
    """Also on a machine that has a network, or the sets in its cache."""
    constants = pytest.importorskip("huggingface_hub").constants
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=r"'openai/gsm8k', configuration 'main', split 'train'"):
        rows("gsm8k")
    with pytest.raises(ValueError, match=r"split 'test' could not be loaded .*a \.jsonl or"):
        rows("nobody/nothing", "test")


def test_instruction_and_system_message(tmp_path):
    path = saved(tmp_path, [{"prompt": "3 + 4?", "answer": "7"}])
    plain = FileTask(path, 0.0, instruction="Box it.").problem("train", 0)
    assert plain.prompt == "3 + 4?\n\nBox it."
    chat = FileTask(path, 0.0, instruction="Box it.", system="You add.").problem("train", 0)
    assert chat.prompt == [
        {"role": "system", "content": "You add."},
        {"role": "user", "content": "3 + 4?\n\nBox it."},
    ]


# --- problems that must not be trained on ---


BENCHMARK = [
    {
        "problem": "Let n be the number of ways to write 10 as a sum of primes.",
        "answer": "5",
    },
    {"problem": "3 + 4?", "answer": "7"},
]
TRAINING = [
    {"prompt": "Solve: let N be the number of ways to write 10 as a sum  of primes! Box it.",
     "answer": "5"},
    {"prompt": "3+4 ?", "answer": "7"},
    {"prompt": "3 - 4?", "answer": "-1"},
    {"prompt": "What is 3 + 4?", "answer": "7"},
    {"prompt": "Let n be the number of ways to write 12 as a sum of primes.", "answer": "7"},
]  # fmt: skip


def test_training_rows_that_hold_a_benchmark_problem_are_left_out(tmp_path):
    task = FileTask(
        saved(tmp_path, TRAINING, "train"),
        heldout_fraction=0.0,
        decontaminate=[saved(tmp_path, BENCHMARK, "benchmark")],
    )
    kept = sorted(task.problem("train", i).text for i in range(task.size("train")))
    assert kept == sorted(row["prompt"] for row in TRAINING[2:])
    row_counts = task.row_counts()
    assert row_counts["train"] == 3 and list(row_counts["removed"].values()) == [2]
    assert pickle.loads(pickle.dumps(task)).decontaminate == task.decontaminate


def test_a_held_out_source_is_never_trained_on(tmp_path):
    task = FileTask(saved(tmp_path, TRAINING, "t"), heldout=saved(tmp_path, BENCHMARK, "h"))
    assert (task.size("train"), task.size("heldout")) == (3, 2)
    assert task.row_counts()["removed"] == {"heldout": 2}
    assert task.problem("heldout", 0).id.startswith("file-heldout-")


def test_overlap_is_by_words_in_order():
    problem = "one two three four five six seven eight nine"
    same = [
        "ONE, two three: four five six seven eight nine.",
        f"say {problem} ten",
        f"{problem}\nthink step by step",
    ]
    other = ["one two three four five six seven eight", " ".join(reversed(problem.split()))]
    assert shared([*same, *other], [problem]) == {0, 1, 2}
    # The benchmark's text may be the wrapped one.
    assert shared([problem, "one two"], [f"Solve: {problem}. Box it."]) == {0}
    assert shared(["9 \u2212 4?", "9 + 4?"], ["9-4"]) == {0}


def test_system_messages_hide_no_problem(tmp_path):
    text = "Let n be the number of ways to write 10 as a sum of primes."
    chat = [{"role": "system", "content": "You add."}, {"role": "user", "content": text}]
    held = saved(tmp_path, [{"prompt": chat, "answer": "5"}], "h")
    rows = [{"prompt": text, "answer": "5"}, {"prompt": "3 + 4?", "answer": "7"}]
    task = FileTask(saved(tmp_path, rows, "t"), heldout=held)
    assert task.row_counts()["removed"] == {"heldout": 1}


def test_a_reference_with_parts_reaches_verls_function_whole(tmp_path):
    (tmp_path / "closeness.py").write_text(
        "def compute_score(ground_truth, solution_str):\n"
        "    return float(str(ground_truth['target']) == solution_str)\n"
    )
    row = {"prompt": [{"role": "user", "content": "Make 24."}],
           "reward_model": {"ground_truth": {"target": 24, "numbers": [4, 6]}}}  # fmt: skip
    path = tmp_path / "train.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), path)
    task = FileTask(str(path), 0.0, reward=f"verl:{tmp_path}/closeness.py:compute_score")
    assert task.verify(task.problem("train", 0), "24") == 1.0


def test_a_folder_may_have_a_dot_in_its_name(tmp_path):
    assert rows(saved(tmp_path, [{"prompt": "a", "answer": "b"}], "set-v1.0"))
