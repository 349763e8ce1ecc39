"""Asking an OpenAI-compatible chat-completions server: many prompts, each answered once.

    endpoint = Endpoint(EndpointConfig(base_url="http://localhost:8000/v1", model="qwen"))
    replies, bill = endpoint.ask(["Is 7 prime?"], Path("answers.jsonl"))
    replies["Is 7 prime?"].text

Every answer is a line of the file as soon as it has arrived, under a hash of all that it depends
on. What the file holds is never asked again, so a command that was stopped goes on where it was.
What happens on a failure:

    429, 408, 409, 425, 5xx, time-out, connection cut, a body that is no chat completion
                                    tried again: exponential back-off with jitter, Retry-After
    401, 402, 404, 3xx, no quota, 403 before any answer   the key, the model or the URL is wrong:
                                    stops at once
    403 once another was answered, other 4xx
                                    this prompt is refused: recorded as such, never asked again
    no try helped                   the prompt is left unanswered; three during whose tries the
                                    server answered nothing else either stop everything, and as many
                                    that are left at the end are asked once more

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
from genac.runs.files import alone, append_line, read_lines, repair_tail, stable_hash
from genac.runs.progress import Progress
from genac.sections import EndpointConfig

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
        self._say = say or (lambda text: print(text, file=sys.stderr, flush=True))
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._free = 0.0  # when the next request may be sent
        self._retries, self._last = 0, ""
        self._replies, self._lost = 0, 0  # arrived; prompts lost since the last one arrived
        self._works = False  # an answer has come, so the key is right
        self._told: set[str] = set()

    def identify(self, prompt: str) -> str:
        """The name of the answer to a prompt: a hash of all that decides it."""
        asked = json.dumps([self.cfg.identity(), encodable(prompt)], sort_keys=True)
        return hashlib.sha256(asked.encode()).hexdigest()[:24]

    def known(self, prompts: Sequence[str], file: Path) -> dict[str, Reply]:
        """Prompt -> its answer, of those that the file holds."""
        kept = {row["id"]: Reply(**row) for _, row in read_lines(file)}
        return {p: kept[i] for p in prompts if (i := self.identify(p)) in kept}

    def ask(self, prompts: Sequence[str], file: Path) -> tuple[dict[str, Reply], Bill]:
        """The answers by prompt, and what they took; equal prompts are asked once.

        A prompt that no try could get answered is missing from the result. Raises Pointless (a
        ValueError) where going on is; what was answered until then is in the file.
        """
        assert not self.cfg.dry_run, "a dry run asks nothing"
        file.parent.mkdir(parents=True, exist_ok=True)
        with alone(file):
            return self._ask(prompts, file)

    def _ask(self, prompts: Sequence[str], file: Path) -> tuple[dict[str, Reply], Bill]:
        repair_tail(file)
        wanted = list(dict.fromkeys(prompts))
        replies = self.known(wanted, file)
        missing = [p for p in wanted if p not in replies]
        self._retries = 0
        self._stop.clear()
        # The last few of many may be prompts that the server never answers: then go on without.
        few = len(missing) <= len(wanted) // 100
        # The first one goes alone: a wrong key or model costs one request.
        fresh: dict[str, Reply | None] = {}
        for some in (missing[:1], missing[1:]):
            fresh |= self._all(some, file, few, bool(replies)) if some else {}
        lost = [p for p in missing if fresh[p] is None]
        if len(lost) >= HOPELESS and not few:
            # Poisonous prompts, or a server that died near the end? Another round tells.
            fresh |= self._all(lost, file, few, known=True)
        answered = {p: r for p, r in fresh.items() if r is not None}
        replies |= answered
        account = bill(self.cfg, [*replies.values()], [*answered.values()])
        counts = {"prompts": len(wanted), "unanswered": len(missing) - len(answered)}
        return replies, replace(account, **counts, retries=self._retries)

    def _all(
        self, prompts: Sequence[str], file: Path, few: bool, known: bool
    ) -> dict[str, Reply | None]:
        """Asks all prompts side by side; None for one that could not be answered."""
        found: dict[str, Reply | None] = {}
        refused, answers, self._lost = 0, int(known), 0
        http = load_http()
        bar = Progress(f"asking {self.cfg.model}", len(prompts), enabled=len(prompts) > 1)
        with bar, self._client(http) as client, ThreadPoolExecutor(self.cfg.concurrency) as pool:
            jobs = {pool.submit(self._one, http, client, p, file): p for p in prompts}
            try:
                for job in as_completed(jobs):
                    reply = found[jobs[job]] = job.result()
                    bar.update(len(found), retries=self._retries or None)
                    refused += bool(reply and reply.refused)
                    answers += bool(reply and not reply.refused)
                    if reply is None and self._lost >= HOPELESS and not few:
                        raise Pointless(self._gave_up())
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
        return found

    def _gave_up(self) -> str:
        return (
            f"{self.url} left {HOPELESS} prompts in a row unanswered, each after "
            f"{self.cfg.max_retries + 1} tries (last: {self._last}); what was answered is kept, "
            "the same command goes on from there"
        )

    def _one(self, http: Any, client: Any, prompt: str, file: Path) -> Reply | None:
        """One prompt until it is answered, refused or given up; the answer is on disk then."""
        name, replies = self.identify(prompt), self._replies
        for number in range(self.cfg.max_retries + 1):
            if not self._turn():
                return None
            try:
                reply = self._post(http, client, name, prompt)
            except Refused as refusal:
                reply = Reply(name, refused=str(refusal))
            except Retry as failure:
                self._failed(failure, number)
                continue
            except Pointless:  # no further request is sent
                self._stop.set()
                raise
            with self._lock:
                self._replies, self._lost = self._replies + 1, 0
                append_line(file, asdict(reply))
            return reply
        with self._lock:
            # The lost come last, since they were tried longest: that three of them follow each
            # other says nothing of a server that answered others in the meantime.
            self._lost += replies == self._replies
        return None

    def _failed(self, failure: Retry, number: int) -> None:
        """Waits before the next try; each kind of failure is told once."""
        reason = self._last = str(failure)
        if failure.after > PATIENCE:
            raise Pointless(
                f"{self.url} asks to wait {failure.after:.0f} s ({reason}); the same command goes "
                "on later with what is missing"
            )
        wait = min(LONGEST, self.cfg.backoff * 2**number) * random.uniform(0.5, 1.0)
        wait = max(wait, failure.after)
        with self._lock:
            first, self._retries = reason not in self._told, self._retries + 1
            self._told.add(reason)
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

    def _client(self, http: Any) -> Any:
        headers = {}
        if self._secret is not None:
            headers["Authorization"] = f"Bearer {self._secret.get_secret_value()}"
        limits = http.Limits(max_connections=self.cfg.concurrency)
        return http.Client(headers=headers, timeout=self.cfg.timeout, limits=limits)

    def _post(self, http: Any, client: Any, name: str, prompt: str) -> Reply:
        """One request. Raises Retry, Refused, or Pointless where nothing will help."""
        deadline = time.monotonic() + self.cfg.timeout
        content = bytearray()
        try:
            # Read piece by piece: a server that drips for ever must not outlast the deadline.
            with client.stream("POST", self.url, json=self.body(prompt)) as response:
                for piece in response.iter_bytes():
                    content += piece
                    if time.monotonic() > deadline:
                        raise Retry(f"no answer within {self.cfg.timeout:g} s")
        except http.TimeoutException:
            raise Retry(f"no answer within {self.cfg.timeout:g} s") from None
        except (http.TransportError, http.DecodingError) as error:
            raise Retry(f"{type(error).__name__}: {self._clean(str(error))}") from None
        text = content.decode("utf-8", "replace")
        if response.status_code != 200:
            raise self._fault(response.status_code, text, response.headers.get("retry-after"))
        self._works = True
        return self._without_key(read_reply(name, text, self._clean))

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
        said = f"{status}: {complaint(text, self._clean)}"
        quota = status == 429 and "insufficient_quota" in text
        if (status in AGAIN or status >= 500) and not quota:
            return Retry(said, seconds(retry_after))
        # Gateways answer 403 to a prompt that their moderation rejects, too.
        if status == 401 or (status == 403 and not self._works):
            source = self.cfg.api_key_env or "no api_key_env"
            return Pointless(f"{self.url} refuses the key (from {source}): {said}")
        if status == 404:
            return Pointless(
                f"{self.url} knows no model {self.cfg.model!r}, or is no chat-completions address: "
                f"{said}; correct model or base_url"
            )
        if status == 402 or quota:
            return Pointless(f"{self.url}: the account has no credit left: {said}")
        if status < 400:
            return Pointless(f"{self.url} answers {said}; correct base_url")
        return Refused(said)

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
    """Where the answers of one model under one setting are kept, whoever asks."""
    name = re.sub(r"[^A-Za-z0-9.-]+", "_", cfg.model).strip("_.")[-40:]
    return Path(root) / "answers" / f"{name}-{stable_hash(cfg.identity())}.jsonl"


def encodable(text: str) -> str:
    """The text with ? for each half of a surrogate pair, which no request can carry."""
    return text.encode("utf-8", "replace").decode()


def load_http() -> Any:
    """The HTTP library; ValueError where it is not installed."""
    try:
        import httpx2
    except ImportError as error:
        raise ValueError(
            "asking an endpoint needs httpx2, which is not installed; pip install genac[api]"
        ) from error
    return httpx2
