"""Any trainer: a bare PyTorch loop that takes its advantages from a critic service.

genac serve runs/arithmetic/critic --learn &
python examples/any_trainer.py runs/arithmetic/actor http://127.0.0.1:8077
"""

from __future__ import annotations

import sys
import uuid

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from genac.client import Client, CriticService, Learn, Response, Responses
from genac.tasks.arithmetic import ArithmeticTask  # problems and rewards: bring your own


def train(actor: str, critic: CriticService, task: ArithmeticTask, steps: int) -> list[float]:
    """Trains the actor of a folder; returns the mean reward of every step."""
    tokenizer = AutoTokenizer.from_pretrained(actor)
    model = AutoModelForCausalLM.from_pretrained(actor)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    run, rewards = uuid.uuid4().hex, []  # ids of requests must not come again in another run
    for step in range(steps):
        # 1 Act: 4 responses to each of 8 problems, kept as the tokens that were sampled.
        prompts, responses = [], []
        for number in range(8 * step, 8 * step + 8):
            problem = task.problem("train", number)
            prompt = tokenizer(problem.text, return_tensors="pt", add_special_tokens=False)
            size = prompt["input_ids"].shape[1]
            settings = {"do_sample": True, "top_k": 0, "num_return_sequences": 4}
            for row in model.generate(**prompt, **settings, max_new_tokens=40).tolist():
                ids = row[size:]
                if tokenizer.eos_token_id in ids:  # behind it there is padding
                    ids = ids[: ids.index(tokenizer.eos_token_id) + 1]
                reward = task.verify(problem, tokenizer.decode(ids, skip_special_tokens=True))
                fields = {"problem": problem.text, "group": problem.id, "reward": reward}
                responses.append(Response(tokens=ids, **fields))
                prompts.append(row[:size])
        # 2 Ask: a value before every segment, and what they and the rewards say of every token.
        request = Responses(responses=tuple(responses), id=f"{run}-{step}", step=step)
        replies = critic.advantages(request).responses
        # 3 Learn: the policy gradient, here with one update per batch and so without a ratio.
        count = sum(len(response.tokens) for response in responses)
        for prompt, response, reply in zip(prompts, responses, replies, strict=True):
            if reply.token_advantages is None:  # no reward, so nothing to learn
                continue
            ids = torch.tensor([[*prompt, *response.tokens]])
            logits = model(ids).logits[0, len(prompt) - 1 : -1]
            logprobs = logits.log_softmax(-1).gather(-1, ids[0, len(prompt) :, None])[:, 0]
            (-(torch.tensor(reply.token_advantages) * logprobs).sum() / count).backward()
        optimizer.step()
        optimizer.zero_grad()
        # 4 The critic learns from the same outcomes, from the rationales that it wrote above.
        learnt = critic.learn(Learn(request_id=f"{run}-{step}-learn", estimates=request.id))
        known = [r.reward for r in responses if r.reward is not None]
        rewards.append(sum(known) / len(known) if known else float("nan"))
        print(f"step {step}: reward {rewards[-1]:.2f}, critic {learnt.metrics}")
    return rewards


if __name__ == "__main__":
    with Client(sys.argv[2]) as client:
        train(sys.argv[1], client, ArithmeticTask(seed=1, min_steps=5, max_steps=7), steps=20)
