"""The story grammars. Each draws one story of exactly `steps` steps, or raises Redraw."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from genac.tasks.word_problems.story import LEAST, Draft, Redraw
from genac.tasks.word_problems.wording import Person, article

FACTORS = {"doubles": 2, "triples": 3}
TIMES = {2: "twice", 3: "3 times", 4: "4 times"}


def gain_lose(draft: Draft, steps: int) -> None:
    """One person's things become more and fewer."""
    person = draft.person()
    state = start(draft, person, draft.limit * 2 // 3)
    for _ in range(steps):
        state = draft.change(person, state, subject(draft, person))
    draft.ask(person)


def double_halve(draft: Draft, steps: int) -> None:
    """The same, and a number doubles, triples or is halved at least once."""
    person = draft.person()
    state, last = start(draft, person, draft.limit // 2), "+"
    for left in range(steps, 0, -1):
        scaled = any(step.operator in "*/" for step in draft.steps)
        choices = scalings(draft, state) if last in "+-" else []
        must = left <= 2 and not scaled
        if choices and (must or draft.rng.random() < 0.5):
            state = scale(draft, person, state, draft.rng.choice(choices))
        else:
            state = draft.change(person, state, subject(draft, person))
        last = draft.steps[-1].operator
    if not any(step.operator in "*/" for step in draft.steps):
        raise Redraw
    draft.ask(person)


def share(draft: Draft, steps: int) -> None:
    """Boxes of things, more and fewer of them, and equal shares of all."""
    person, rng = draft.person(), draft.rng
    after = rng.randint(0, min(2, steps - 2))
    before = steps - 1 - after
    boxes = before == 1 or rng.random() < 0.6
    people = after > 0 or rng.random() < 0.5
    state = filled_boxes(draft, person) if boxes else start(draft, person, draft.limit)
    changes = before - boxes
    for _ in range(changes - 1):
        state = draft.change(person, state, subject(draft, person))
    parts = parts_for(draft, state, exact=changes == 0)
    if changes > 0:
        state = change_to_multiple(draft, person, state, parts)
    several = draft.rng.choice(draft.words.receivers) if people else unused_container(draft)
    state = divide(draft, person, state, parts, several)
    if after:
        one_receiver(draft, person, state, several, after)


def prices(draft: Draft, steps: int) -> None:
    """Several of each kind are bought; coupon, fee and change as the number of steps asks for."""
    rng, person = draft.rng, draft.person()
    kinds = rng.choice([k for k in (1, 2, 3) if 0 <= steps - (2 * k - 1) <= 3])
    extras = rng.sample(("coupon", "fee", "change"), steps - (2 * kinds - 1))
    items = rng.sample(draft.words.things, kinds)
    counts, costs = [], []
    for _ in items:
        count = draft.number(rng.randint(LEAST, 9), "count")
        counts.append(count)
        costs.append(draft.amount(LEAST, draft.limit // (kinds * draft.value(count) + 1)))
    priced = [
        f"{article(one)} costs ${draft.value(c)}" for (one, _), c in zip(items, costs, strict=True)
    ]
    draft.sentences.append(f"{rng.choice(draft.words.shops)}, {listed(priced)}.")
    basket = [f"{draft.value(n)} {several}" for (_, several), n in zip(items, counts, strict=True)]
    draft.sentences.append(f"{person.name} buys {listed(basket)}.")
    totals = [
        draft.step(f"{what} cost ${draft.value(c)} each", n, "*", c)
        for what, n, c in zip(basket, counts, costs, strict=True)
    ]
    state = totals[0]
    for number, one in enumerate(totals[1:], start=2):
        both = "Both" if number == 2 else "All three"
        state = draft.step(f"{both} add up", state, "+", one)
    pay(draft, person, state, extras)


def pay(draft: Draft, person: Person, state: int, extras: Sequence[str]) -> None:
    """From the sum of the prices to the question."""
    she = person.she.capitalize()
    if "fee" in extras:
        fee = draft.amount(LEAST, draft.limit // 8)
        n = draft.value(fee)
        draft.sentences.append(f"{she} also pays ${n} for gift wrapping.")
        state = draft.step(f"The gift wrapping costs ${n}", state, "+", fee)
    if "coupon" in extras:
        off = draft.amount(LEAST, min(draft.value(state) - LEAST, draft.limit // 4))
        n = draft.value(off)
        draft.sentences.append(f"A coupon takes ${n} off the total.")
        state = draft.step(f"The coupon takes off ${n}", state, "-", off)
    if "change" not in extras:
        draft.question = f"How many dollars does {person.name} pay in total?"
        return
    purse = draft.amount(draft.value(state) + 1, draft.limit)
    n = draft.value(purse)
    if draft.rng.random() < 0.5:
        draft.sentences.append(f"{she} hands the cashier ${n}.")
        draft.question = f"How many dollars of change does {person.name} get back?"
    else:
        draft.sentences.append(f"Before paying, {person.she} had ${n}.")
        draft.question = f"How many dollars does {person.name} have left?"
    draft.step(f"{person.name} pays from ${n}", purse, "-", state)


def compare(draft: Draft, steps: int) -> None:
    """Two people: one has more or fewer than the other, both change, one number is the question."""
    rng = draft.rng
    one = draft.person()
    other = draft.person(one)
    own = start(draft, one, draft.limit // 2)
    theirs = relation(draft, one, other, own)
    question = rng.choice(("together", "more", "one"))
    left = steps - 1 - (question != "one")
    if question == "more" and not left and draft.steps[0].operator != "*":
        raise Redraw  # the story would say the answer
    gives = False
    need = 1 + (question == "more")  # the steps of a gift that count
    while left > 0:
        if question != "together" and not gives and left >= need and rng.random() < 0.4:
            own, theirs = give(draft, one, other, own, theirs)
            left, gives = left - need, True
            continue
        if question == "one" or rng.random() < 0.5:
            theirs = draft.change(other, theirs, other.name)
        else:
            own = draft.change(one, own, one.name)
        left -= 1
    ask_about(draft, question, (one, own), (other, theirs))


GRAMMARS: dict[str, Callable[[Draft, int], None]] = {
    "gain_lose": gain_lose,
    "double_halve": double_halve,
    "share": share,
    "prices": prices,
    "compare": compare,
}


# --- parts of a story ----------------------------------------------------------------------------


def start(draft: Draft, person: Person, most: int) -> int:
    first = draft.amount(2 * LEAST, most)
    draft.begin(person, f"{draft.value(first)} {draft.things}")
    return first


def subject(draft: Draft, person: Person) -> str:
    return person.she if draft.rng.random() < 0.7 else person.name


def scalings(draft: Draft, state: int) -> list[str]:
    """What the running number permits."""
    value = draft.value(state)
    ups = [word for word, factor in FACTORS.items() if value * factor <= draft.limit]
    halves = "/" in draft.operators and value % 2 == 0 and value > 2 * LEAST
    return ups + (["half"] if halves else [])


def scale(draft: Draft, person: Person, state: int, how: str) -> int:
    words, things = draft.words, draft.things
    who, factor = subject(draft, person), draft.number(FACTORS.get(how, 2), "count")
    if how == "half":
        phrase = draft.rng.choice(words.halves)
        draft.say(who, phrase.format(her=person.her, things=things))
        short = phrase.split(" of ")[0]
        return draft.step(f"{person.name} {short}", state, "/", factor)
    phrase = draft.rng.choice(words.multiples)
    draft.say(who, phrase.format(doubles=how, her=person.her, things=things))
    return draft.step(f"{person.name} {how} the number", state, "*", factor)


def filled_boxes(draft: Draft, person: Person) -> int:
    draft.short = False  # "3 more" could be boxes
    count = draft.number(draft.rng.randint(LEAST, 9), "count")
    each = draft.amount(LEAST, draft.limit // draft.value(count))
    n, k, boxes = draft.value(count), draft.value(each), draft.rng.choice(draft.words.containers)[1]
    draft.begin(person, f"{n} {boxes} with {k} {draft.things} in each")
    return draft.step(f"{n} {boxes} hold {k} each", count, "*", each)


def parts_for(draft: Draft, state: int, exact: bool) -> int:
    """The number of equal shares; with `exact` one that divides the running number."""
    value = draft.value(state)
    counts = [d for d in range(2, 10) if not exact or (value % d == 0 and value // d >= LEAST)]
    counts = [d for d in counts if d not in {n.value for n in draft.numbers}]
    if not counts:
        raise Redraw
    return draft.number(draft.rng.choice(counts), "count")


def change_to_multiple(draft: Draft, person: Person, state: int, parts: int) -> int:
    """Gain or lose so much that equal shares come out even."""
    state = draft.change(person, state, subject(draft, person))
    if draft.value(state) % draft.value(parts) or draft.value(state) < LEAST * draft.value(parts):
        raise Redraw
    return state


def unused_container(draft: Draft) -> str:
    story = " ".join(draft.sentences)
    return draft.rng.choice([many for _, many in draft.words.containers if many not in story])


def divide(draft: Draft, person: Person, state: int, parts: int, several: str) -> int:
    n, who, things = draft.value(parts), subject(draft, person), draft.things
    if several in draft.words.receivers:
        draft.say(who, f"shares all {person.her} {things} equally among {n} {several}")
        draft.question = f"How many {things} does each of the {several} get?"
        return draft.step(f"{n} {several} get equal shares", state, "/", parts)
    packs = f"packs all {person.her} {things} into {n} {several}"
    draft.say(who, f"{packs}, the same number in each")
    draft.question = f"How many {things} are in each of these {several}?"
    return draft.step(f"{n} {several} hold equal shares", state, "/", parts)


def one_receiver(draft: Draft, person: Person, state: int, several: str, changes: int) -> None:
    """One of those who share had some before, and may lose or get some later."""
    other = draft.person(person)
    had = draft.amount(LEAST, min(draft.limit - draft.value(state), draft.limit // 2))
    text = f"already had {draft.value(had)}"
    draft.sentences.append(
        f"{other.name} is one of the {several} and {text} {draft.things} of {other.her} own."
    )
    state = draft.step(f"{other.name} {text}", state, "+", had)
    for _ in range(changes - 1):
        state = draft.change(other, state, other.name)
    draft.ask(other)


def relation(draft: Draft, one: Person, other: Person, own: int) -> int:
    """How many the other one has, by comparison."""
    draft.short = False  # "3 more" could be more than the other one has
    value, things, kind = (
        draft.value(own),
        draft.things,
        draft.rng.choice(("more", "fewer", "times")),
    )
    if kind == "times":
        factors = [f for f in TIMES if f * value <= draft.limit]
        if not factors:
            raise Redraw
        factor = draft.number(draft.rng.choice(factors), "count")
        text = f"{other.name} has {TIMES[draft.value(factor)]} as many"
        draft.sentences.append(f"{text} {things} as {one.name}.")
        return draft.step(f"{text} as {one.name}", own, "*", factor)
    most = draft.limit - value if kind == "more" else value - LEAST
    by = draft.amount(LEAST, most)
    text = f"{other.name} has {draft.value(by)} {kind}"
    draft.sentences.append(f"{text} {things} than {one.name}.")
    return draft.step(f"{text} than {one.name}", own, "+" if kind == "more" else "-", by)


def give(draft: Draft, one: Person, other: Person, own: int, theirs: int) -> tuple[int, int]:
    """The other one gives some to the first."""
    most = min(draft.value(theirs) - LEAST, draft.limit - draft.value(own))
    amount = draft.amount(LEAST, most)
    n = draft.value(amount)
    draft.say(other.name, f"gives {one.name} {n} {draft.things}")
    theirs = draft.step(f"{other.name} gives {one.name} {n}", theirs, "-", amount)
    return draft.step(f"{one.name} gets {n} from {other.name}", own, "+", amount), theirs


def ask_about(
    draft: Draft, question: str, first: tuple[Person, int], second: tuple[Person, int]
) -> None:
    (one, own), (other, theirs) = first, second
    things = draft.things
    if question == "one":
        draft.ask(other)
        return
    if question == "together":
        draft.question = f"How many {things} do {one.name} and {other.name} have together now?"
        draft.step("Both add up", own, "+", theirs)
        return
    if draft.value(own) > draft.value(theirs):
        (one, own), (other, theirs) = second, first
    if draft.value(own) == draft.value(theirs):
        raise Redraw
    draft.question = f"How many more {things} does {other.name} have than {one.name} now?"
    draft.step(f"{other.name} has more than {one.name}", theirs, "-", own)


def listed(parts: list[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def add_idle(draft: Draft) -> None:
    """A sentence with a number that the answer does not depend on. One about a person stands where
    the next sentence begins with a name, so that no pronoun can mean someone new.
    """
    rng, words = draft.rng, draft.words
    used = {n.value for n in draft.numbers} | set(draft.results)
    free = [v for v in range(5, min(draft.limit, 40)) if v not in used]
    if not free:
        raise Redraw
    n = draft.value(draft.number(rng.choice(free), "idle"))
    facts = [f for f in words.facts if not any(s.startswith(f[:8]) for s in draft.sentences)]
    if facts and rng.random() < 0.5:
        text = rng.choice(facts).format(n=n)
        draft.sentences.insert(rng.randint(0, len(draft.sentences)), text)
        return
    story = " ".join([*draft.sentences, draft.question])
    things = rng.choice([many for _, many in words.things if many not in story])
    name = rng.choice([p.name for p in words.people if p.name not in story])
    draft.sentences.insert(rng.choice((0, len(draft.sentences))), f"{name} has {n} {things}.")
