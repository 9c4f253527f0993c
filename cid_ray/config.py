"""The one checked description of a run: read from YAML, changed by `section.key=value`, wrong in one clear line.

`load` reads a file, `override` applies changes; both give a frozen `Config` (sections.py has its keys). Every mistake
is an `InputError`: the key, its value, the rule and, where there is one, the remedy.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from cid_ray.rules import CUTMIX_GROUP, Secret, flat, label_share, share_of
from cid_ray.sections import (
    CHANGE_NO_RESULT,
    Config,
    Data,
    Loss,
    Model,
    Optim,
    Plugin,
    Scale,
    Search,
    Section,
    Train,
)  # fmt: skip

__all__ = [
    "CHANGE_NO_RESULT", "CUTMIX_GROUP", "Config", "Data", "InputError", "Loss", "Model", "Optim", "Plugin", "Scale",
    "Search", "Section", "Train", "changes", "explain", "flat", "known_keys", "label_share", "load", "override",
    "read_yaml", "share_of",
]  # fmt: skip
SHOWN = 6  # of the changes that are named


class InputError(Exception):
    """What the user gave cannot be used: the message says what, where, why and what to do. Exit code 2."""


def load(path: str | Path | None, overrides: Iterable[str] = ()) -> Config:
    """Config from a YAML file (None: all defaults), then `key=value` overrides."""
    return override(read_yaml(path) if path else {}, overrides)


def read_yaml(path: str | Path) -> dict[str, Any]:
    path = Path(path)
    if not path.is_file():
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.yaml")], n=1, cutoff=0.4)
        hint = f"; did you mean {path.parent / near[0]}?" if near else ""
        raise InputError(f"config file {path} does not exist{hint}")
    try:
        tree = _read(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where else ""
        reason = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise InputError(f"{path}{line}: not valid YAML ({reason})") from None
    if not isinstance(tree, dict | None):
        raise InputError(f"{path}: must hold `section:` mappings, found a {type(tree).__name__}")
    return tree or {}


def override(tree: Mapping[str, Any], changes: Iterable[str] | Mapping[str, Any]) -> Config:
    """A checked Config from a tree of plain values and changes: "a.b=1" strings or a {"a.b": 1} mapping."""
    try:
        merged: dict[str, Any] = _plain(tree)
    except RecursionError:
        raise InputError("the configuration refers to itself through a YAML alias") from None
    if not isinstance(changes, Mapping):
        changes = dict(_assignment(text) for text in changes)
    for key, value in changes.items():
        node = merged
        *parents, leaf = key.split(".")
        for parent in parents:
            if not isinstance(node.get(parent), dict):
                node[parent] = {}
            node = node[parent]
        node[leaf] = _plain(value)
    try:
        return Config.model_validate(merged)
    except ValidationError as error:
        raise InputError(explain(error)) from None


def _plain(value: Any) -> Any:
    """A copy of a tree of YAML values that may be changed."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


class _Loader(yaml.SafeLoader):
    """safe_load in which a plain `1e-3` is the number that everybody means by it (YAML 1.1 reads a string)."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[+-]?\d+(\.\d*)?[eE][+-]?\d+$"), list("+-0123456789")
)


def _read(text: str) -> Any:
    return yaml.load(text, Loader=_Loader)


def _assignment(text: str) -> tuple[str, Any]:
    key, sign, value = text.partition("=")
    if not sign or not key.strip():
        raise InputError(f"--set {text!r} must look like section.key=value, e.g. loss.relation_weight=0.5")
    try:
        return key.strip(), _read(value)
    except yaml.YAMLError:
        raise InputError(f"--set {text!r}: the value is not valid YAML") from None


def explain(error: ValidationError) -> str:
    """One line for the first mistake: key, value, rule, remedy; and how many more there are."""
    errors = error.errors(include_url=False)
    first, more = errors[0], len(errors) - 1
    key = ".".join(part for part in map(str, first["loc"]) if not re.fullmatch(r"int|float|str|tuple\[.*", part))
    if first["type"] == "extra_forbidden":
        line = f"unknown key `{key}`{_nearest(key)}"
    else:
        rule = first["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
        shown = "" if isinstance(first.get("ctx", {}).get("error"), Secret) else f" is {first['input']!r}"
        line = f"`{key}`{shown}: {rule}{_in_percent(first)}" if key else rule
    return line + (f" (and {more} more mistake{'s' * (more > 1)})" if more else "")


def _in_percent(error: Any) -> str:
    value, limit = error["input"], error.get("ctx", {}).get("le")
    return (
        f"; did you mean {value / 100}?" if limit == 1 and isinstance(value, int | float) and 1 < value <= 100 else ""
    )


def known_keys(model: type[BaseModel] = Config, prefix: str = "") -> list[str]:
    """Every dotted key of the configuration: sections and values."""
    keys = []
    for name, field in model.model_fields.items():
        keys.append(prefix + name)
        kind = field.annotation
        options = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
        for option in options:
            if isinstance(option, type) and issubclass(option, Section):
                keys += known_keys(option, f"{prefix}{name}.")
    return keys


def _nearest(key: str) -> str:
    known = known_keys()
    by_leaf = {k.rsplit(".", 1)[-1]: k for k in reversed(known)}
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.75)
    leaf = difflib.get_close_matches(key.rsplit(".", 1)[-1], list(by_leaf), n=1, cutoff=0.6)
    best = near[0] if near else by_leaf[leaf[0]] if leaf else None
    return f"; did you mean `{best}`?" if best else f"; sections are {', '.join(Config.model_fields)}"


def changes(theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> str:
    """What differs between two flat configurations, in words; empty when nothing does."""
    keys = [key for key in sorted(theirs.keys() | mine.keys()) if theirs.get(key) != mine.get(key)]
    told = [f"{key} was {_short(theirs.get(key))}, is {_short(mine.get(key))}" for key in keys[:SHOWN]]
    return "; ".join(told) + (f" (and {len(keys) - SHOWN} more)" if len(keys) > SHOWN else "")


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 120 else text[:117] + "..."
