"""The parts of a model card that say how the model is asked: prompt, and code that runs it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from genac.config.models import CriticConfig
from genac.critics.prompts import Template

ACTOR_USE = """
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # this folder, or the name of its repository
tokenizer, model = (c.from_pretrained(folder) for c in (AutoTokenizer, AutoModelForCausalLM))
problem = "..."
if tokenizer.chat_template:
    message = [{{"role": "user", "content": problem}}]
    text = tokenizer.apply_chat_template(
        message, tokenize=False, add_generation_prompt=True, **{chat}
    )
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
else:
    ids = tokenizer(problem, return_tensors="pt").input_ids
    if ids[0, -1] == tokenizer.eos_token_id:  # some tokenizers end every text
        ids = ids[:, :-1]
done = model.generate(
    ids, max_new_tokens={limit}, do_sample=True, temperature={temperature}, top_k=0
)
print(tokenizer.decode(done[0, ids.shape[1]:], skip_special_tokens=True))
"""

CRITIC_USE = """
from genac import Critic

critic = Critic.from_pretrained("FOLDER OR REPOSITORY")
judged = critic.score("the problem", "the beginning of a solution\\n")
print(judged.value, judged.spread)  # a value in [0, 1], or None where no score was given
print(judged.rationale)
"""

PLAIN_USE = '''
import re

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # this folder, or the name of its repository
tokenizer, model = (c.from_pretrained(folder) for c in (AutoTokenizer, AutoModelForCausalLM))
TEMPLATE = {template!r}
{system}

def prompt_ids(problem, partial):
    """The pieces are encoded one by one: what stands in problem and response is never markup."""
    text, bos = TEMPLATE, []
    if tokenizer.chat_template:
        message = [{chat_system}{{"role": "user", "content": text}}]
        text = tokenizer.apply_chat_template(
            message, tokenize=False, add_generation_prompt=True, **{chat}
        )
    else:{plain_system}
        bos = [i for i in tokenizer.encode("")[:1] if i == tokenizer.bos_token_id]
    ids = list(bos)
    for piece in re.split(r"(\\{{problem\\}}|\\{{response\\}})", text):
        value = {{"{{problem}}": problem, "{{response}}": partial}}.get(piece)
        plain = dict(split_special_tokens=True) if value is not None else {{}}
        piece = piece if value is None else value
        ids += tokenizer.encode(piece, add_special_tokens=False, **plain)
    return ids


def score(problem, partial):
    ids = torch.tensor([prompt_ids(problem, partial)])
    done = model.generate(
        ids, max_new_tokens={limit}, do_sample={sample}, {temperature}top_k=0,
        stop_strings=["</answer>"], tokenizer=tokenizer,
    )
    rationale = tokenizer.decode(done[0, ids.shape[1]:])
    scores = re.findall(r"<answer>\\s*([0-9]{{1,2}})\\s*</answer>", rationale)
    return (int(scores[-1]) / 10 if scores and int(scores[-1]) <= 10 else None), rationale
'''


PLAIN_SYSTEM = """
        text = SYSTEM.rstrip() + "\\n\\n" + text"""


def actor_use(config: Mapping[str, Any]) -> str:
    """Sampling from the actor with transformers alone, as the run sampled."""
    code = ACTOR_USE.format(
        limit=config["rollout"]["max_completion_length"],
        temperature=config["rollout"]["temperature"],
        chat=config["actor"].get("load", {}).get("chat_template_kwargs", {}),
    )
    return (
        "## Use\n\nThe prompt is the problem as it stands, through the tokenizer's chat template "
        f"where there is one.\n\n{python(code)}"
    )


def prompt_section(chosen: Template, saved: Mapping[str, Any], cfg: CriticConfig) -> str:
    answer = cfg.generative.icc.enabled
    lines = [
        f"## Prompt\n\nTemplate `{chosen.name}`, version {chosen.version}, hash "
        f"`{saved.get('prompt_hash', chosen.hash)}`. A critic asked under another prompt than it "
        "was trained with is silently wrong; genac refuses to.",
        f"```text\n{chosen.text}\n```",
    ]
    if chosen.system:
        lines += ["The system's message:", f"```text\n{chosen.system}\n```"]
    if answer:
        lines += [
            "In the place of `{icc}` stands, with the actor's size and recent success rate:",
            f"```text\n{chosen.icc}\n```",
        ]
    return "\n\n".join(lines)


def use_section(chosen: Template, saved: Mapping[str, Any], cfg: CriticConfig) -> str:
    rate = (saved.get("success_rate") or {}).get("value")
    icc = ""
    if cfg.generative.icc.enabled and rate is not None:
        size = saved.get("actor_size", "")
        icc = chosen.icc.format(size=size, rate=rate, rate10=round(10 * rate))
    heat = cfg.generative.temperature
    plain = PLAIN_USE.format(
        template=chosen.text.replace("{icc}", icc),
        system=f"SYSTEM = {chosen.system!r}\n" if chosen.system else "",
        chat_system='{"role": "system", "content": SYSTEM}, ' if chosen.system else "",
        plain_system=PLAIN_SYSTEM if chosen.system else "",
        chat=cfg.load.chat_template_kwargs,
        limit=cfg.generative.max_new_tokens,
        sample=heat > 0,
        temperature=f"temperature={heat}, " if heat > 0 else "",
    )
    return (
        "## Use\n\nWith genac (values are "
        + (
            "the mean of the score's distribution"
            if cfg.generative.readout == "expected"
            else "the score that was written, divided by 10"
        )
        + f"):\n\n{python(CRITIC_USE)}\n\nWith transformers alone, one sampled score at a time:"
        + f"\n\n{python(plain)}"
    )


def python(code: str) -> str:
    return f"```python\n{code.strip()}\n```"
