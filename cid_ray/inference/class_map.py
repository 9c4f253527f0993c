"""Which class of a network each class of a table is, by their names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cid_ray.config import InputError
from cid_ray.data.table import IGNORED

MAX_NAMES = 8  # in a message


@dataclass(frozen=True)
class ClassMap:
    """From the class ids of a table to those of a network.

    Attributes:
        ids: u8[256], the network's class id of each value of a mask; 255 is "no label".
        ignored: classes of the table that the network is not asked for.
        message: what a user should know; "" when both have the same classes in the same order.
    """

    ids: np.ndarray
    ignored: list[str]
    message: str


def match_classes(
    table: Sequence[str], model: Sequence[str], pairs: Sequence[str] | None = None
) -> ClassMap:
    """Match the classes of a table and of a network by name.

    Args:
        table: class names of the table, in the order of its ids.
        model: class names of the network.
        pairs: of `--map-classes`: "TABLE_NAME=MODEL_NAME", or "TABLE_NAME=" for a class to leave
            out. Classes that they do not name are matched by equal names, or left out. None: all
            names must be equal.

    Raises:
        InputError: the names differ, or a pair names a class that does not exist.

    Example:
        >>> match_classes(["car", "road"], ["road", "car"]).ids[:2].tolist()
        [1, 0]
    """
    named = _parse_pairs(table, model, pairs or ())
    found = {name: named.get(name, name if name in model else "") for name in table}
    if pairs is None:
        _check_equal(table, model)
    ids = np.full(256, IGNORED, np.uint8)
    if list(table) == list(model) and not named:
        ids[: len(table)] = np.arange(len(table))
    else:
        for number, name in enumerate(table):
            if found[name]:
                ids[number] = list(model).index(found[name])
    ignored = [name for name in table if not found[name]]
    return ClassMap(ids, ignored, _message(table, model, found, ignored))


def _message(
    table: Sequence[str], model: Sequence[str], found: dict[str, str], ignored: list[str]
) -> str:
    if list(table) == list(model) and all(name == target for name, target in found.items()):
        return ""
    renamed = [f"{name} is {to}" for name, to in found.items() if to and to != name]
    parts = ["classes of the table are matched with the checkpoint's by name"]
    if renamed:
        parts.append(_some(renamed))
    if ignored:
        parts.append(f"left out: {_some(ignored)}")
    return "; ".join(parts)


def _check_equal(table: Sequence[str], model: Sequence[str]) -> None:
    only_table = [name for name in table if name not in model]
    only_model = [name for name in model if name not in table]
    if not only_table and not only_model:
        return
    parts = []
    if only_table:
        parts.append(f"only in the table: {_some(only_table)}")
    if only_model:
        parts.append(f"only in the checkpoint: {_some(only_model)}")
    example = f"{(only_table or list(table))[0]}={(only_model or [''])[0]}"
    raise InputError(
        f"the classes of table and checkpoint differ ({'; '.join(parts)}); say which is which "
        f"with --map-classes TABLE_NAME=MODEL_NAME ..., e.g. {example!r}; without a MODEL_NAME "
        "the class is left out"
    )


def _parse_pairs(
    table: Sequence[str], model: Sequence[str], pairs: Sequence[str]
) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in pairs:
        name, target = _parse_pair(table, model, pair)
        if found.get(name, target) != target:
            raise InputError(f"--map-classes maps {name!r} to both {found[name]!r} and {target!r}")
        found[name] = target
    return found


def _parse_pair(table: Sequence[str], model: Sequence[str], pair: str) -> tuple[str, str]:
    """The two names of a pair; a name may hold an equals sign."""
    for place in [place for place, letter in enumerate(pair) if letter == "="]:
        name, target = pair[:place], pair[place + 1 :]
        if name in table and target in (*model, ""):
            return name, target
    name, equals, target = pair.partition("=")
    if not equals:
        reason = "must be TABLE_NAME=MODEL_NAME"
    elif name not in table:
        reason = f"the table has no class {name!r}, it has {_some(table)}"
    else:
        reason = f"the checkpoint has no class {target!r}, it has {_some(model)}"
    raise InputError(f"--map-classes {pair!r}: {reason}")


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return ", ".join(names[:MAX_NAMES]) + more
