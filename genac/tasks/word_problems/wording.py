"""Names, things and phrases of the stories, in two vocabularies that share no name, thing or verb.

A phrase is text with the places {k} (how many), {her} and {things}. A solution's line that names
the event leaves out what stands behind "|".
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Person:
    """A name and its pronouns."""

    name: str
    she: str
    her: str


def women(*names: str) -> tuple[Person, ...]:
    return tuple(Person(name, "she", "her") for name in names)


def men(*names: str) -> tuple[Person, ...]:
    return tuple(Person(name, "he", "his") for name in names)


@dataclass(frozen=True)
class Wording:
    """One vocabulary."""

    people: tuple[Person, ...]
    things: tuple[tuple[str, str], ...]  # one, several
    starts: tuple[str, ...]  # with {name} and {k}
    gains: tuple[str, ...]
    losses: tuple[str, ...]
    halves: tuple[str, ...]
    multiples: tuple[str, ...]  # {doubles}: doubles or triples
    openers: tuple[str, ...]
    questions: tuple[str, ...]  # with {things} and {name}
    containers: tuple[tuple[str, str], ...]
    receivers: tuple[str, ...]  # several people who share
    shops: tuple[str, ...]
    facts: tuple[str, ...]  # {n}: sentences that no question asks for


TRAIN = Wording(
    people=women("Ana", "Carla", "Emma", "Grace", "Irene", "Kate", "Maria", "Olga")
    + men("Ben", "David", "Felix", "Hugo", "Jonas", "Liam", "Noah", "Paul"),
    things=(
        ("book", "books"),
        ("apple", "apples"),
        ("marble", "marbles"),
        ("pencil", "pencils"),
        ("sticker", "stickers"),
        ("card", "cards"),
        ("shell", "shells"),
        ("button", "buttons"),
        ("stamp", "stamps"),
        ("cookie", "cookies"),
    ),
    starts=("{name} has {k}.", "{name} starts with {k}.", "At first, {name} has {k}."),
    gains=(
        "buys {k}| in a shop",
        "finds {k}",
        "gets {k}| from a friend",
        "receives {k}| as a gift",
    ),
    losses=("gives away {k}", "sells {k}", "loses {k}", "gives {k} to a friend"),
    halves=("sells half of {her} {things}", "gives away half of {her} {things}"),
    multiples=("{doubles} the number of {her} {things}",),
    openers=("", "Then ", "After that, ", "Later, ", "The next day, "),
    questions=(
        "How many {things} does {name} have now?",
        "How many {things} does {name} have in the end?",
    ),
    containers=(("box", "boxes"), ("bag", "bags"), ("basket", "baskets")),
    receivers=("friends", "children"),
    shops=("In a shop", "At the market"),
    facts=(
        "The walk to school takes {n} minutes.",
        "It is {n} degrees outside.",
        "The street has {n} houses.",
    ),
)
HELDOUT = Wording(
    people=women("Priya", "Wanda", "Yuki", "Zelda", "Ximena", "Ingrid")
    + men("Tariq", "Viktor", "Sven", "Rashid", "Kofi", "Matteo"),
    things=(
        ("bead", "beads"),
        ("pebble", "pebbles"),
        ("candle", "candles"),
        ("magnet", "magnets"),
        ("badge", "badges"),
        ("walnut", "walnuts"),
        ("postcard", "postcards"),
        ("feather", "feathers"),
        ("acorn", "acorns"),
    ),
    starts=("{name} owns {k}.", "{name}'s collection consists of {k}.", "{name} begins with {k}."),
    gains=(
        "picks up {k}| on the way home",
        "wins {k}| at a fair",
        "collects {k}",
        "orders {k}| online",
    ),
    losses=(
        "donates {k}| to a museum",
        "misplaces {k}",
        "hands out {k}| at a party",
        "discards {k}",
    ),
    halves=("donates half of {her} {things}", "hands out half of {her} {things}"),
    multiples=("swaps with a collector and thereby {doubles} {her} stock of {things}",),
    openers=("", "Soon after, ", "A week later, ", "Over the weekend, ", "Afterwards, "),
    questions=(
        "With how many {things} does {name} end up?",
        "What is the number of {things} that {name} owns in the end?",
    ),
    containers=(("crate", "crates"), ("jar", "jars"), ("drawer", "drawers")),
    receivers=("cousins", "teammates"),
    shops=("At a stall", "In the museum store"),
    facts=(
        "The train ride lasts {n} minutes.",
        "The station has {n} benches.",
        "The tower is {n} meters high.",
    ),
)
WORDINGS = {"train": TRAIN, "heldout": HELDOUT}


def article(noun: str) -> str:
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def sentence(text: str) -> str:
    """The text with its first letter in upper case."""
    return text[0].upper() + text[1:]
