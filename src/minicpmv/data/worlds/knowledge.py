"""A small closed world: people, towns, companies and things, and what is true of them.

    seed -> make_world -> (Entity(name, kind, facts), ...) -> sentences, questions, articles

Nothing in it is true elsewhere, so what a model knows of it can only come from our texts and pages. Names are made up
and split by `words.is_held_out`, like every other word; about who belongs to training, nothing held out is true.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.random import Generator

from minicpmv.data.worlds.fonts import Split
from minicpmv.data.worlds.words import is_held_out
from minicpmv.errors import OptionError

Kind = Literal["person", "town", "company", "thing"]
KINDS: tuple[Kind, ...] = ("person", "town", "company", "thing")

JOBS = ("baker", "doctor", "driver", "farmer", "lawyer", "miller", "nurse", "painter", "sailor", "teacher")
GOODS = ("bread", "boats", "books", "clocks", "glass", "honey", "lamps", "paper", "shoes", "tea", "tools", "wool")
COLOURS = ("black", "blue", "brown", "green", "grey", "red", "white", "yellow")

_FEWEST_ENTITIES = 40

_STARTS = (
    "Bal",
    "Bren",
    "Cor",
    "Del",
    "Dor",
    "Ell",
    "Fen",
    "Gar",
    "Hav",
    "Hol",
    "Jor",
    "Kel",
    "Lan",
    "Lor",
    "Mar",
    "Mir",
    "Nor",
    "Oster",
    "Pel",
    "Per",
    "Quil",
    "Rin",
    "Ros",
    "Sol",
    "Sten",
    "Tam",
    "Thal",
    "Ul",
    "Ver",
    "Wil",
    "Yar",
    "Zan",
)
_MIDDLES = ("", "a", "e", "i", "o", "ander", "en", "ing", "or", "un")
_ENDS: dict[Kind, tuple[str, ...]] = {
    "person": ("dan", "la", "mund", "na", "ric", "sa", "vin", "wen"),
    "town": ("bridge", "bury", "dale", "ford", "ham", "mouth", "stead", "wick"),
    "company": ("co", "corp", "dex", "line", "mark", "tech", "works", "zon"),
    "thing": ("ax", "ette", "ix", "matic", "o", "or", "lite", "on"),
}
_FAMILY_ENDS = ("berg", "by", "cott", "ley", "man", "son", "ton", "worth")

_WORDINGS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "job": (("{name} is a {value}.", "{name} works as a {value}."), ("What is the job of {name}?",)),
    "home": (("{name} lives in {value}.", "The home of {name} is {value}."), ("Where does {name} live?",)),
    "born": (("{name} was born in {value}.",), ("When was {name} born?",)),
    "mayor": (("The mayor of {name} is {value}.", "{value} is the mayor of {name}."), ("Who is the mayor of {name}?",)),
    "founded": (("{name} was founded in {value}.", "{name} began in {value}."), ("When was {name} founded?",)),
    "people": (("{value} people live in {name}.", "{name} has {value} people."), ("How many people live in {name}?",)),
    "makes": (("{name} makes {value}.", "{name} is known for its {value}."), ("What does {name} make?",)),
    "seat": (("{name} has its seat in {value}.", "{name} is based in {value}."), ("Where is {name} based?",)),
    "head": (("{value} leads {name}.", "The head of {name} is {value}."), ("Who leads {name}?",)),
    "maker": (("{name} is made by {value}.", "{value} makes the {name}."), ("Who makes the {name}?",)),
    "price": (("The {name} costs {value}.", "One {name} is {value}."), ("How much is the {name}?",)),
    "colour": (("The {name} is {value}.", "The {name} comes in {value}."), ("What colour is the {name}?",)),
}
"""How each relation is told and asked."""


@dataclass(frozen=True, slots=True)
class Fact:
    """Something that is true: the value of a relation for a subject."""

    subject: str
    relation: str
    value: str


@dataclass(frozen=True, slots=True)
class Entity:
    """Someone or something with a name, and everything that is true of it."""

    name: str
    kind: Kind
    facts: tuple[Fact, ...]

    def value(self, relation: str) -> str:
        """The value of one of its relations."""
        return next(fact.value for fact in self.facts if fact.relation == relation)


def make_world(seed: int, num_entities: int = 400) -> tuple[Entity, ...]:
    """A world of so many entities, a quarter of each kind; about a fifth of them have held-out names.

    Args:
        seed: which world.
        num_entities: at least 40, so that every kind has names of both splits.

    Raises:
        OptionError: fewer.
    """
    if num_entities < _FEWEST_ENTITIES:
        raise OptionError(f"A world of {num_entities} entities is too small.", remedy=f"Ask for {_FEWEST_ENTITIES}.")
    generator = np.random.default_rng([seed, num_entities])
    names = {kind: _names(generator, kind, num_entities // len(KINDS)) for kind in KINDS}
    return tuple(Entity(name, kind, _facts(generator, kind, name, names)) for kind in KINDS for name in names[kind])


def entities_of(world: Sequence[Entity], split: Split) -> tuple[Entity, ...]:
    """The entities whose names belong to a split."""
    return tuple(entity for entity in world if is_held_out(entity.name) == (split == "held_out"))


def tell(generator: Generator, fact: Fact) -> str:
    """A fact as a sentence."""
    return _worded(generator, _WORDINGS[fact.relation][0], fact)


def ask_about(generator: Generator, fact: Fact) -> str:
    """A question whose answer is the fact's value."""
    return _worded(generator, _WORDINGS[fact.relation][1], fact)


def article(generator: Generator, entity: Entity, num_facts: int | None = None) -> tuple[list[str], list[Fact]]:
    """Sentences about an entity in random order, and the facts that they tell.

    Args:
        generator: source of randomness.
        entity: whom it is about.
        num_facts: how many facts to tell; None for all.
    """
    order = generator.permutation(len(entity.facts))[:num_facts]
    facts = [entity.facts[int(index)] for index in order]
    return [tell(generator, fact) for fact in facts], facts


def _worded(generator: Generator, wordings: Sequence[str], fact: Fact) -> str:
    sentence = _pick(generator, wordings).format(name=fact.subject, value=fact.value)
    return sentence[0].upper() + sentence[1:]


def _pick(generator: Generator, choices: Sequence[str]) -> str:
    return choices[int(generator.random() * len(choices))]


def _names(generator: Generator, kind: Kind, num: int) -> tuple[str, ...]:
    """Different names that sound like their kind."""
    names: dict[str, None] = {}
    while len(names) < num:
        name = _pick(generator, _STARTS) + _pick(generator, _MIDDLES) + _pick(generator, _ENDS[kind])
        if kind == "person":
            name += " " + _pick(generator, _STARTS) + _pick(generator, _FAMILY_ENDS)
        names.setdefault(name)
    return tuple(names)


def _facts(generator: Generator, kind: Kind, name: str, names: dict[Kind, tuple[str, ...]]) -> tuple[Fact, ...]:
    """What is true of one entity; drawn again until nothing held out is true of one of the training."""
    while True:
        drawn = _draw(generator, kind, names)
        if is_held_out(name) or not any(is_held_out(value) for _, value in drawn):
            return tuple(Fact(name, relation, value) for relation, value in drawn)


def _draw(generator: Generator, kind: Kind, names: dict[Kind, tuple[str, ...]]) -> list[tuple[str, str]]:
    """Relations and values of one entity."""
    year = str(1700 + int(generator.random() * 300))
    if kind == "person":
        return [("job", _pick(generator, JOBS)), ("home", _pick(generator, names["town"])), ("born", year)]
    if kind == "town":
        people = str(100 * (1 + int(generator.random() * 900)))
        mayor = _pick(generator, names["person"])
        return [("mayor", mayor), ("founded", year), ("people", people), ("makes", _pick(generator, GOODS))]
    if kind == "company":
        seat, head = _pick(generator, names["town"]), _pick(generator, names["person"])
        return [("seat", seat), ("head", head), ("founded", year), ("makes", _pick(generator, GOODS))]
    price = f"${1 + int(generator.random() * 99)}.{10 * int(generator.random() * 10):02d}"
    return [("maker", _pick(generator, names["company"])), ("price", price), ("colour", _pick(generator, COLOURS))]
