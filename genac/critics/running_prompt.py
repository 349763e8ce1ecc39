"""The prompts of a critic that keeps notes, and which prompt a config means.

What stands between problem and response, and behind the response, stands around every further
segment again. So the instructions, and what is said of the actor, come first and once.
"""

from __future__ import annotations

from genac.config.models import GenerativeConfig
from genac.critics.prompts import ICC, PROBLEM, RESPONSE, Template, template

TASK = (
    "You will see a problem and one attempt to solve it, part by part. Behind each part write a "
    "short note that checks this part, with the help of your notes so far. Then predict the "
    "expected value of the attempt as far as it has come: one integer between 0 and 10 inside "
    "<answer> and </answer>, where 0 means that it is very unlikely to end in the correct answer "
    "and 10 that it is most likely to."
)
TEXT = Template(
    "running",
    1,
    f"{TASK}\n{{icc}}\nProblem:\n{PROBLEM}\n\nPart:\n{RESPONSE}\n\nNote:\n",
    ICC + "\n",
    chat=False,
)
RUNNING = {
    "paper": TEXT,
    "prefix-first": TEXT,
    # For tiny word-level models, which know no English.
    "compact": Template(
        "running-compact",
        1,
        f"{{icc}}{PROBLEM}{RESPONSE}<judge>",
        "size {size}rate {rate10}\n",
        chat=False,
    ),
}


def prompt_of(cfg: GenerativeConfig) -> Template:
    """The prompt that a critic of this config is asked with."""
    if cfg.form == "running" and cfg.prompt in RUNNING:
        return RUNNING[cfg.prompt]
    return template(cfg.prompt)
