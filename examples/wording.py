"""Short forms for writing grammars, and the people, towns and days that the demo's topics share."""

from __future__ import annotations

from nodes import Choice, Node, Option, Sequence, Switch, Text

__all__ = ["DAY", "PERSON", "TOWN", "maybe", "option", "pick", "seq", "switch"]


def _node(body: Node | str) -> Node:
    """Return ``body`` as a node."""
    return Text(body) if isinstance(body, str) else body


def seq(*parts: Node | str) -> Sequence:
    """Return the parts one after the other; strings are texts, in which ``{feature}`` quotes a feature."""
    return Sequence(tuple(_node(part) for part in parts))


def option(body: Node | str, weight: float = 1.0, **features: str) -> Option:
    """Return an alternative for ``pick`` with a relative weight and the features that it binds."""
    return Option(weight, _node(body), features)


def pick(*options: Option | Node | str) -> Choice:
    """Return a choice between options whose weights are scaled to sum to one (plain bodies weigh 1)."""
    made = [each if isinstance(each, Option) else option(each) for each in options]
    total = sum(each.probability for each in made)
    return Choice(tuple(Option(each.probability / total, each.body, each.features) for each in made))


def maybe(body: Node | str, weight: float = 1.0) -> Choice:
    """Return a choice between ``body`` (of the given relative weight) and nothing (of weight 1)."""
    return pick(option(body, weight), "")


def switch(feature: str, **cases: Node | str) -> Switch:
    """Return the case that the value of ``feature`` names."""
    return Switch(feature, {value: _node(case) for value, case in cases.items()})


def _people(names: str, she: str, her: str, own: str, weight: float) -> list[Option]:
    """Return one option per name: ``she`` is its subject pronoun, ``her`` the object one, ``own`` the possessive."""
    forms = {"she": she, "She": she.capitalize(), "her": her, "own": own}
    return [option(name, weight, name=name, **forms) for name in names.split()]


PERSON = pick(
    *_people("Nora Clara Mia Ruth Vera", "she", "her", "her", 2),
    *_people("Ida June Stella", "she", "her", "her", 1),
    *_people("Tom Felix Paul Omar Leo", "he", "him", "his", 2),
    *_people("Ben Hugo Arthur", "he", "him", "his", 1),
)

TOWN = pick(
    *(option(town, 3, town=town) for town in ("Ashford", "Millbrook", "Redhill")),
    *(option(town, 2, town=town) for town in ("Easton", "Harbour Bay", "Stonebridge", "Wexley")),
    option("Larkfield", town="Larkfield"),
)

DAY = pick(
    *(option(day, day=day) for day in ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")),
)
