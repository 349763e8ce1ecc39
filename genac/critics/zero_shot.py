"""A model behind an API as a critic or an oracle: prompts as text, and an untrained critic.

The prompt is the run's own critic prompt where that one explains the score, else `zero-shot`, which
says the same in plain words; the oracle's asks for reasoning that another model can learn from. The
reference answer is in none of them, unless it is given on purpose.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from genac.config.prompt_file import is_content
from genac.critics.base import Critic, unique_states
from genac.critics.prompts import (
    ICC,
    PROBLEM,
    RESPONSE,
    STEPS,
    TASK,
    TEMPLATES,
    Context,
    Template,
    conditioning,
    template,
    with_system,
)
from genac.critics.scores import OPEN, SCORES, parse_score
from genac.endpoint.client import Endpoint
from genac.endpoint.replies import Bill
from genac.rollout import response_text
from genac.runtime import Runtime
from genac.types import Estimate, Problem, State

ZERO_SHOT = Template(
    "zero-shot",
    1,
    f"{TASK}\n\n{STEPS} Write nothing behind it.\n{{icc}}\nProblem:\n{PROBLEM}\n\nPartial "
    f"solution:\n{RESPONSE}\n\n(The partial solution ends here.)\nYour judgement:\n",
    "5. " + ICC + "\n",
)
ORACLE = Template(
    "oracle",
    1,
    f"{TASK} A smaller model will learn from what you write, so let it see how you come to the "
    "number.\n\n"
    "1. Say in a sentence what the problem asks and how hard it is.\n"
    "2. Check the partial solution step by step against your own computation; name the first "
    "error, if there is one, and whether it was put right.\n"
    "3. Say what is left to do, and weigh the chance that it ends correctly if its author goes on "
    "from where it stops.\n"
    "4. Use at most {words} words. End with one integer between 0 and 10 inside <answer> and "
    f"</answer>, and write nothing behind it.\n{{icc}}\n{{reference}}Problem:\n{PROBLEM}\n\n"
    f"Partial solution:\n{RESPONSE}\n\n(The partial solution ends here.)\nYour judgement:\n",
    "5. " + ICC + "\n",
)
REFERENCE = (
    "The correct answer, for you alone (judge as one who does not know it, and never mention that "
    "you were told):\n{answer}\n\n"
)


def zero_shot_template(name: str) -> Template:
    """The run's critic template where its text explains the score, else the zero-shot one."""
    chosen = template(name) if is_content(name) else TEMPLATES.get(name, ZERO_SHOT)
    return chosen if OPEN in chosen.text else ZERO_SHOT


def plain_prompt(
    chosen: Template, problem: Problem, partial: str, context: Context | None, notes: str = ""
) -> str:
    """The prompt as text.

    Problem and partial solution are put in last and as they are: places and tags that are written
    in them mean nothing.
    """
    icc = conditioning(chosen, context)
    whole = with_system(chosen.system, chosen.text.replace("{icc}", icc))
    begin, rest = whole.split(PROBLEM)
    between, after = rest.split(RESPONSE)
    text = f"{notes.strip()}\n\n" if notes.strip() else ""
    return f"{text}{begin}{problem.question}{between}{problem.beginning}{partial}{after}"


def oracle_prompt(
    problem: Problem,
    partial: str,
    context: Context | None,
    words: int,
    answer: str | None = None,
    notes: str = "",
) -> str:
    """The oracle's prompt; `answer` is the reference answer where it may see it."""
    begin, after = ORACLE.text.replace("{words}", str(words)).split("{reference}")
    reference = "" if answer is None else REFERENCE.replace("{answer}", place_free(answer))
    reply = Template(ORACLE.name, ORACLE.version, begin + reference + after, ORACLE.icc)
    return plain_prompt(reply, problem, partial, context, notes)


def place_free(text: str) -> str:
    """The text with no place of a template in it."""
    for place in (PROBLEM, RESPONSE, "{icc}"):
        text = text.replace(place, place[1:-1])
    return text


class EndpointCritic(Critic):
    """Zero-shot values of a model behind an API; identical states are sent once, and whatever was
    answered before is not sent again. What cannot be read is missing, never 0."""

    def __init__(
        self, endpoint: Endpoint, chosen: Template, actor: Runtime, size: str | None, file: Path
    ) -> None:
        self.endpoint = endpoint
        self.template = chosen
        self.actor = actor
        self.file = file  # every answer, so that no prompt is paid for twice
        self.size = size  # None = no in-context conditioning
        self.rate: float | None = None
        self.bill = Bill()

    def set_success_rate(self, rate: float | None) -> None:
        self.rate = rate

    def prompts_of(self, states: Sequence[State]) -> list[str]:
        context = None
        if self.size is not None and self.rate is not None:
            context = Context(self.size, self.rate)
        return [
            plain_prompt(
                self.template,
                state.rollout.problem,
                response_text(self.actor.tokenizer, state.rollout.response_ids[: state.start]),
                context,
                self.endpoint.cfg.notes,
            )
            for state in states
        ]

    def estimate(self, states: Sequence[State], step: int) -> list[Estimate]:
        unique, index = unique_states(states)
        prompts = self.prompts_of(unique)
        replies, self.bill = self.endpoint.ask(prompts, self.file)
        values = []
        for prompt in prompts:
            score = parse_score(replies[prompt].text) if prompt in replies else None
            values.append(None if score is None else score / (SCORES - 1))
        return [Estimate(state, values[i]) for state, i in zip(states, index, strict=True)]
