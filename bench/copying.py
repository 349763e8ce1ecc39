"""Whether a critic of word problems calculates a line's result, or repeats what the line says.

    python bench/copying.py ACTOR CRITIC [CRITIC ...] [--problems N] [--lines N] [--json FILE]

ACTOR answers problems of the recipe that nothing was trained on, and the task's program judges what
it has written after each line. Of the program's reasoning every critic reads the beginning, up to
the result that is due ("Line 2: Ana buys 3, 7 + 3 is"), and writes that result. It is right by
chance where it repeats the line's; so lines with a slip, whose result is wrong, and lines that
use a wrong number, stand apart.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import parse, parser, table, write_json

from genac.ops.stats import bootstrap_interval

RECIPE = "recipes/smollm2-word-problems.yaml"
FIRST = 100_000  # a problem of the training split that no stage draws
RESULT = re.compile(r"(-?\d+ [-+*/] -?\d+) is (-?\d+), says (-?\d+)\. (Right|Wrong\.|Wrong:)")
KINDS = {"Right": "right", "Wrong.": "slip", "Wrong:": "wrong number"}
Line = tuple[str, Any, tuple[int, ...], str, str]  # kind, problem, partial, before, result


def main() -> None:
    options = parser(__doc__.splitlines()[0])
    options.add_argument("actor", type=Path)
    options.add_argument("critics", type=Path, nargs="+")
    options.add_argument("--problems", type=int, default=64)
    options.add_argument("--lines", type=int, default=60, help="of each kind")
    args = parse(options)
    import torch

    from genac.config.recipes import read_recipe, resolve
    from genac.stages.setup import Setup

    torch.set_num_threads(args.threads)
    path = {"algorithm": "genac", "actor.model_name_or_path": str(args.actor)}
    setup = Setup.of(resolve(read_recipe(RECIPE), path))
    actor = setup.actor(args.actor)
    lines, rate = chosen(setup, actor, args)
    rows, result = [], {}
    for folder in args.critics:
        right = written_rightly(setup, folder, actor, rate, lines)
        for kind, problems in sorted(right.items()):
            values = [one for some in problems.values() for one in some]
            mean, (low, high) = float(np.mean(values)), bootstrap_interval([*problems.values()])
            figure = {"lines": len(values), "right": mean, "interval": [low, high]}
            result.setdefault(str(folder), {})[kind] = figure
            cell = f"{mean:.2f} [{low:.2f}, {high:.2f}]"
            rows.append([str(folder), kind, str(len(values)), cell])
    print(table(["critic", "the line is", "lines", "results written rightly"], rows))
    write_json(args, {"actor": str(args.actor), "critics": result}, {})


def chosen(setup: Any, actor: Any, args: Any) -> tuple[list[Line], float]:
    """Judged lines of the actor's responses, at most `--lines` of each kind; its success rate."""
    from genac.critics.base import unique_states
    from genac.rollout import collect, problems_at, response_text
    from genac.states import split

    problems = problems_at(setup.world, "train", FIRST, args.problems)
    rollouts = [r for group in collect(actor, setup.world, problems, "copying") for r in group]
    states, _ = unique_states(split(rollouts, setup.cfg.states, actor.tokenizer))
    kinds: dict[str, list[Line]] = defaultdict(list)
    for state in states:
        ids, problem = state.rollout.response_ids[: state.start], state.rollout.problem
        text = response_text(actor.tokenizer, ids)
        reasoning = setup.world.task.oracle(problem, text, None).reasoning
        checks = list(RESULT.finditer(reasoning))
        if checks:  # the last one: the others stand in earlier states
            last = checks[-1]
            kind = KINDS[last[4]]
            kinds[kind].append((kind, problem, ids, reasoning[: last.start(2)], last[2]))
    shuffled = random.Random(args.seed)
    drawn = [shuffled.sample(some, min(args.lines, len(some))) for some in kinds.values()]
    lines = [line for some in drawn for line in some]
    return lines, float(np.mean([rollout.reward or 0.0 for rollout in rollouts]))


def written_rightly(
    setup: Any, folder: Path, actor: Any, rate: float, lines: Sequence[Line]
) -> dict[str, dict[str, list[bool]]]:
    """Kind of line -> problem -> whether the critic writes each line's result, token by token."""
    import torch
    from transformers import AutoModelForCausalLM

    from genac.critics.prompts import Context, PromptBuilder
    from genac.critics.running_prompt import prompt_of
    from genac.critics.saved import critic_card
    from genac.models.loading import load_tokenizer

    tokenizer = load_tokenizer(folder)
    template = prompt_of(setup.cfg.critic.generative)
    prompts = PromptBuilder(template, tokenizer, actor.tokenizer)
    context = Context(critic_card(folder)["actor_size"], rate)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    right: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for kind, problem, partial, before, result in lines:
        prompt = prompts.render_ids(problem, partial, context, None)
        begun = tokenizer.encode(before, add_special_tokens=False)
        whole = tokenizer.encode(before + result, add_special_tokens=False)
        assert whole[: len(begun)] == begun, "a digit is a token of its own"
        with torch.inference_mode():
            logits = model(torch.tensor([[*prompt, *whole]])).logits[0]
        first = len(prompt) + len(begun)
        written = logits[first - 1 : -1].argmax(-1).tolist()
        right[kind][problem.id].append(written == whole[len(begun) :])
    return right


if __name__ == "__main__":
    main()
