"""Asking an OpenAI-compatible chat-completions server: many prompts, each answered once.

    endpoint = Endpoint(EndpointConfig(base_url="http://localhost:8000/v1", model="qwen"))
    replies, bill = endpoint.ask(["Is 7 prime?"], Path("answers.jsonl"))
    replies["Is 7 prime?"].text

Every answer is a line of the file as soon as it has arrived, under a hash of all that it depends
on. What the file holds is never requested again, so a stopped command goes on where it was.
What happens on a failure:

    429, 408, 409, 425, 5xx, time-out, connection cut, a body that is no chat completion
                                    tried again: exponential back-off with jitter, Retry-After
    401, 402, 404, 405, 407, 3xx, no quota, 403 before any answer
                                    the key, the model or the URL is wrong: stops at once
    403 once another was answered, other 4xx
                                    this prompt is refused: recorded as such, never sent again
    an answer without text          recorded with what it holds instead, never sent again
    no try helped                   the prompt is left unanswered; after three during whose tries
                                    the server answered nothing else, prompts from anywhere in the
                                    list are tried; after three of these one that was answered is
                                    sent again, and where it is lost too everything stops. Three
                                    or more that are left at the end are sent once more

The key is read from the environment, sent in one header, and taken out of what the server says: of
error texts always, of answers if it is too long to be a word of theirs.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from genac.config.stages import EndpointConfig
from genac.endpoint.address import checked_url, key_of
from genac.endpoint.replies import (
    Bill,
    Pointless,
    Refused,
    Reply,
    Retry,
    bill,
    complaint,
    read_reply,
    seconds,
)
from genac.endpoint.transport import Transport
from genac.runs.files import alone, append_line, encodable, read_lines, repair_tail, stable_hash
from genac.runs.progress import Progress

AGAIN = {408, 409, 425, 429}  # and every 5xx
LONGEST = 60.0  # seconds between two tries, unless the server asks for more
PATIENCE = 600.0  # the longest Retry-After that is waited for
TELLING = 16  # characters from which a key in an answer can be nothing but the key
HOPELESS = 3  # prompts lost while nothing was answered, or refusals before any answer


class Endpoint:
    """A client of one model. ValueError where the config names no URL, model or key."""

    def __init__(self, cfg: EndpointConfig, say: Callable[[str], None] | None = None) -> None:
        self.cfg, self.url = cfg, checked_url(cfg)
        self._secret = None if cfg.dry_run else key_of(cfg)
        self._transport = Transport(self.url, self._secret, cfg.timeout, cfg.concurrency)
        self._say = say or (lambda text: print(text, file=sys.stderr, flush=True))
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._free = 0.0  # when the next request may be sent
        self._retries, self._last = 0, ""
        self._replies = 0  # arrived
        self._lost = 0  # prompts that were lost since the last one arrived
        self._probes_lost = 0  # of these, prompts that were tried since three were lost
        self._good: str | None = None  # a prompt that was answered
        self._spoke = False  # it has sent something, be it an error
        self._works = False  # an answer has come, so the key is right
        self._reported: set[str] = set()

    def identify(self, prompt: str) -> str:
        """The name of the answer to a prompt: a hash of all that decides it."""
        queries = json.dumps([self.cfg.identity(), encodable(prompt)], sort_keys=True)
        return hashlib.sha256(queries.encode()).hexdigest()[:24]

    def known(self, prompts: Sequence[str], file: Path) -> dict[str, Reply]:
        """Prompt -> its answer, of those that the file holds."""
        kept = {row["id"]: Reply(**row) for _, row in read_lines(file)}
        return {p: kept[i] for p in prompts if (i := self.identify(p)) in kept}

    def ask(self, prompts: Sequence[str], file: Path) -> tuple[dict[str, Reply], Bill]:
        """The answers by prompt, and what they took; equal prompts are sent once.

        A prompt that no try could get answered is missing from the result. Raises Pointless (a
        ValueError) where going on is; what was answered until then is in the file.
        """
        assert not self.cfg.dry_run, "a dry run sends nothing"
        file.parent.mkdir(parents=True, exist_ok=True)
        with alone(file):
            return self._ask(prompts, file)

    def _ask(self, prompts: Sequence[str], file: Path) -> tuple[dict[str, Reply], Bill]:
        repair_tail(file)
        unique = list(dict.fromkeys(prompts))
        replies = self.known(unique, file)
        missing = [p for p in unique if p not in replies]
        self._retries = self._lost = self._probes_lost = 0
        self._stop.clear()
        known = bool(replies)
        self._spoke |= known
        self._good = next((p for p, r in replies.items() if r.came), None)
        # The last few of many may be prompts that the server never answers: then go on without.
        few = len(missing) <= len(unique) // 100
        fresh: dict[str, Reply | None] = {}
        # They go alone until one is answered: a wrong key costs one request, a silent server few.
        while len(fresh) < min(2 * HOPELESS, len(missing)) and not any(fresh.values()):
            fresh |= self._all([missing[len(fresh)]], file, few, known)
        if rest := missing[len(fresh) :]:
            fresh |= self._all(rest, file, few, known)
        lost = [p for p in missing if fresh[p] is None]
        if len(lost) >= HOPELESS and not few:
            fresh |= self._again(lost, file)
        answered = {p: r for p, r in fresh.items() if r is not None}
        replies |= answered
        usage = bill(self.cfg, [*replies.values()], [*answered.values()])
        counts = {"prompts": len(unique), "unanswered": len(missing) - len(answered)}
        return replies, replace(usage, **counts, retries=self._retries)

    def _again(self, lost: list[str], file: Path) -> dict[str, Reply | None]:
        """Sends the lost prompts once more; Pointless where the server has died meanwhile."""
        self._lost = self._probes_lost = 0
        fresh = self._all(lost, file, few=True, known=True)
        if self._lost >= HOPELESS:
            with self._transport.open() as client:
                self._check_alive(client)
        return fresh

    def _check_alive(self, client: Any) -> None:
        """Whether prompts are at fault that were lost in a row, or the server: it is tried once
        more what it has answered before. Raises Pointless where it fails.
        """
        if self._good is not None:
            self._say("endpoint: asking an answered prompt again: does the server still work?")
        if self._good is None or (
            self._one(client, self._good, None) is None and not self._stop.is_set()
        ):
            raise Pointless(self._gave_up())

    def _all(
        self, prompts: Sequence[str], file: Path, few: bool, known: bool
    ) -> dict[str, Reply | None]:
        """Sends all prompts concurrently; None for one that could not be answered."""
        results: dict[str, Reply | None] = {}
        waiting = list(reversed(prompts))
        refused, answers = 0, int(known)
        bar = Progress(f"asking {self.cfg.model}", len(prompts), enabled=len(prompts) > 1)
        with (
            bar,
            self._transport.open() as client,
            ThreadPoolExecutor(self.cfg.concurrency) as pool,
        ):
            jobs = [pool.submit(self._next, client, waiting, file) for _ in prompts]
            try:
                for job in as_completed(jobs):
                    prompt, reply = job.result()
                    results[prompt] = reply
                    bar.update(len(results), retries=self._retries or None)
                    refused += bool(reply and not reply.came)
                    answers += bool(reply and reply.came)
                    if not few and self._hopeless():
                        self._check_alive(client)
                    if reply is not None and refused >= HOPELESS and not answers:
                        raise Pointless(
                            f"{self.url} refuses every request for model {self.cfg.model!r}: "
                            f"{reply.refused}"
                        )
            except KeyboardInterrupt:
                self._say("endpoint: waiting for the answers under way, they are paid")
                raise
            finally:
                self._stop.set()
                for job in jobs:
                    job.cancel()
        self._stop.clear()
        return results

    def _next(self, client: Any, waiting: list[str], file: Path) -> tuple[str, Reply | None]:
        """Sends the next of the waiting prompts. Where the last ones were all lost it is any of
        them, a probe: neighbours are alike, and may be at fault where the server is not.
        """
        with self._lock:
            probe = self._lost >= HOPELESS
            prompt = waiting.pop(random.randrange(len(waiting)) if probe else -1)
        reply = self._one(client, prompt, file)
        with self._lock:
            self._probes_lost += probe and reply is None and self._lost > HOPELESS
        return prompt, reply

    def _hopeless(self) -> bool:
        """Whether the server seems dead: it never spoke, or answers no prompt, neighbour or not."""
        with self._lock:
            return self._lost >= HOPELESS and (not self._spoke or self._probes_lost >= HOPELESS)

    def _gave_up(self) -> str:
        return (
            f"{self.url} left at least {HOPELESS} prompts in a row unanswered, each after "
            f"{self.cfg.max_retries + 1} tries (last: {self._last}); what was answered is kept, "
            "the same command goes on from there"
        )

    def _one(self, client: Any, prompt: str, file: Path | None) -> Reply | None:
        """One prompt until it is answered, refused or given up; the answer is in the file then."""
        name, replies = self.identify(prompt), self._replies
        for number in range(self.cfg.max_retries + 1):
            if not self._turn():
                return None
            try:
                reply = self._post(client, name, prompt)
            except Refused as refusal:
                reply = Reply(name, refused=str(refusal))
            except Retry as failure:
                self._failed(failure, number)
                continue
            except Pointless:  # no further request is sent
                self._stop.set()
                raise
            with self._lock:
                self._replies, self._lost, self._probes_lost = self._replies + 1, 0, 0
                self._good = prompt if reply.came else self._good
                if file is not None:
                    append_line(file, asdict(reply))
            return reply
        with self._lock:
            # The lost come last, since they were tried longest: that three of them follow each
            # other says nothing of a server that answered others in the meantime.
            self._lost += replies == self._replies
        return None

    def _failed(self, failure: Retry, number: int) -> None:
        """Waits before the next try; each kind of failure is reported once."""
        reason = self._last = str(failure)
        if failure.after > PATIENCE:
            raise Pointless(
                f"{self.url} asks to wait {failure.after:.0f} s ({reason}); the same command goes "
                "on later with what is missing"
            )
        wait = min(LONGEST, self.cfg.backoff * 2**number) * random.uniform(0.5, 1.0)
        wait = max(wait, failure.after)
        with self._lock:
            first, self._retries = reason not in self._reported, self._retries + 1
            self._reported.add(reason)
            if failure.after:  # the limit is the account's, so every request waits for it
                self._free = max(self._free, time.monotonic() + failure.after)
        if first:
            self._say(f"endpoint: {reason}; trying again, at most {self.cfg.max_retries} times")
        if number < self.cfg.max_retries:
            self._stop.wait(wait)

    def _turn(self) -> bool:
        """Waits until a request may be sent; False where everything has been stopped."""
        pace = 60.0 / self.cfg.requests_per_minute if self.cfg.requests_per_minute else 0.0
        while not self._stop.is_set():
            with self._lock:
                wait = self._free - time.monotonic()
                if wait <= 0:
                    self._free = time.monotonic() + pace
                    return True
            self._stop.wait(wait)
        return False

    def _post(self, client: Any, name: str, prompt: str) -> Reply:
        """One request. Raises Retry, Refused, or Pointless where nothing will help."""
        try:
            answer = self._transport.post(client, self.body(prompt))
        except Retry as failure:  # the library may repeat what the server sent
            raise Retry(self._clean(str(failure))) from None
        self._spoke = True
        if answer.status != 200:
            raise self._fault(answer.status, answer.text, answer.retry_after)
        self._works = True
        return self._without_key(read_reply(name, answer.text, self._clean))

    def body(self, prompt: str) -> dict[str, Any]:
        """The request; fields that the config sets to null are left out."""
        cfg = self.cfg
        fields = {
            "model": cfg.model,
            "messages": [{"role": "user", "content": encodable(prompt)}],
            "temperature": cfg.temperature,
            "max_tokens": cfg.max_tokens,
        } | cfg.request
        return {key: value for key, value in fields.items() if value is not None}

    def _fault(self, status: int, text: str, retry_after: str | None) -> Exception:
        message = f"{status}: {complaint(text, self._clean)}"
        quota = status == 429 and "insufficient_quota" in text
        if (status in AGAIN or status >= 500) and not quota:
            return Retry(message, seconds(retry_after))
        # Gateways answer 403 to a prompt that their moderation rejects, too.
        if status == 401 or (status == 403 and not self._works):
            source = self.cfg.api_key_env or "no api_key_env"
            return Pointless(f"{self.url} refuses the key (from {source}): {message}")
        if status == 404:
            return Pointless(
                f"{self.url} knows no model {self.cfg.model!r}, or is no chat-completions address: "
                f"{message}; correct model or base_url"
            )
        if status in (405, 407):
            return Pointless(
                f"{self.url} answers {message}; correct base_url, or the proxy's address"
            )
        if status == 402 or quota:
            return Pointless(f"{self.url}: the account has no credit left: {message}")
        if status < 400:
            return Pointless(f"{self.url} answers {message}; correct base_url")
        return Refused(message)

    def _clean(self, text: str) -> str:
        """A text without the key, should a server repeat it, be it as JSON escapes it."""
        key = self._key()
        for form in (key, key.replace("/", "\\/"), json.dumps(key)[1:-1]) if key else ():
            text = text.replace(form, "[key]")
        return text

    def _without_key(self, reply: Reply) -> Reply:
        """The answer without a long key; a short one (EMPTY, token) may be a word of the answer."""
        key = self._key()
        if len(key) < TELLING:
            return reply
        text, finish = (part.replace(key, "[key]") for part in (reply.text, reply.finish))
        return replace(reply, text=text, finish=finish)

    def _key(self) -> str:
        return self._secret.get_secret_value() if self._secret is not None else ""


def answers_file(root: str | Path, cfg: EndpointConfig) -> Path:
    """Where the answers of one model under one setting are kept, for any caller."""
    name = re.sub(r"[^A-Za-z0-9.-]+", "_", cfg.model).strip("_.")[-40:]
    return Path(root) / "answers" / f"{name}-{stable_hash(cfg.identity())}.jsonl"
