"""Reads a configuration: YAML, then `section.key=value` changes, then the checks of schema.py.

`load_config` starts from a file and `build_config` from plain values. Both return a frozen
`Config`. Every mistake is an `InputError` of one line: the key, its value, the rule and the remedy.
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

from cid_ray.config.errors import InputError
from cid_ray.config.schema import Config
from cid_ray.config.section import Section
from cid_ray.config.validators import SecretError, flatten, holds_secret
from cid_ray.config.yaml_reader import parse_yaml, read_documents

MAX_CHANGES_SHOWN = 6
MAX_VALUE_CHARS = 120
MAX_RULE_CHARS = 500  # a rule may repeat the value
NOT_FINITE = (float("inf"), float("-inf"))

Changes = Iterable[str] | Mapping[str, Any]


def load_config(path: str | Path | None = None, changes: Changes = ()) -> Config:
    """Read a configuration from a YAML file and change single values of it.

    Args:
        path: a YAML file. Keys that it leaves out keep their defaults. None: all defaults.
        changes: `["loss.temperature=0.5"]`, as after `--set`, or `{"loss.temperature": 0.5}`.
            They win over the file, and a later change wins over an earlier one.

    Returns:
        The checked, frozen configuration.

    Raises:
        InputError: the file cannot be read, a key is unknown, or a value breaks its rule.

    Example:
        >>> import cid_ray
        >>> config = cid_ray.load_config(None, ["data.ratio=1/16", "train.steps=100"])
        >>> config.train.rung_steps
        (34, 67, 100)
    """
    return build_config(read_yaml(path) if path else {}, changes)


def build_config(tree: Mapping[str, Any], changes: Changes = ()) -> Config:
    """Make a configuration from nested plain values and change single values of it.

    Args:
        tree: sections and values as YAML gives them, e.g. `{"train": {"steps": 100}}`.
        changes: as for `load_config`.

    Returns:
        The checked, frozen configuration.

    Raises:
        InputError: a key is unknown, or a value breaks its rule.

    Example:
        >>> build_config({"train": {"steps": 100}}, {"train.seed": 3}).train.seed
        3
    """
    try:
        merged: dict[str, Any] = _copy(tree)
    except RecursionError:
        raise InputError("the configuration refers to itself through a YAML alias") from None
    if not isinstance(changes, Mapping):
        changes = dict(_parse_change(text) for text in changes)
    for key, value in changes.items():
        _assign(merged, key, value)
    # First of all: a later message may repeat a value.
    for key, value in flatten(merged).items():
        if holds_secret(key, value):
            raise InputError(
                f"`{key}` holds a password or another secret, which would be written into the run "
                "folder; leave it out and set it in the environment (AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, PGUSER and PGPASSWORD, MLFLOW_TRACKING_URI, WANDB_API_KEY)"
            )
    try:
        config = Config.model_validate(merged)
    except ValidationError as error:
        raise InputError(format_validation_error(error)) from None
    _check_plain("", config.model_dump())
    return config


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file, {} for an empty file."""
    path = Path(path)
    if not path.is_file():
        names = [other.name for other in path.parent.glob("*.yaml")]
        near = difflib.get_close_matches(path.name, names, n=1, cutoff=0.4)
        hint = f"; did you mean {path.parent / near[0]}?" if near else ""
        raise InputError(f"config file {path} does not exist{hint}")
    documents = read_documents(path)
    if len(documents) > 1:
        raise InputError(f"{path}: holds {len(documents)} documents, must hold one")
    tree = documents[0] if documents else None
    if not isinstance(tree, dict | None):
        raise InputError(f"{path}: must hold `section:` mappings, found a {type(tree).__name__}")
    return tree or {}


# ---- changes ----


def _parse_change(text: str) -> tuple[str, Any]:
    """The key and value of `section.key=value`; the value is YAML."""
    key, sign, value = text.partition("=")
    if not sign or not key.strip():
        raise InputError(
            f"--set {text!r} must look like section.key=value, e.g. loss.relation_weight=0.5"
        )
    try:
        return key.strip(), parse_yaml(value)
    except yaml.YAMLError:
        raise InputError(f"--set {key.strip()}: the value is not valid YAML") from None


def _assign(tree: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key; a plain value on the way there is replaced by a section."""
    *parents, leaf = key.split(".")
    for parent in parents:
        if not isinstance(tree.get(parent), dict):
            tree[parent] = {}
        tree = tree[parent]
    tree[leaf] = _copy(value)


def _check_plain(key: str, value: Any) -> None:
    """Raise InputError for a value that is read back from config.yaml as another one.

    The schema leaves the values of some mappings open, such as model.decoder_options, and YAML has
    dates, binary data and sets.
    """
    if isinstance(value, dict):
        for name, item in value.items():
            _check_plain(f"{key}.{name}".lstrip("."), item)
    elif isinstance(value, list | tuple):
        for item in value:
            _check_plain(key, item)
    elif not isinstance(value, str | int | float | None) or value in NOT_FINITE or value != value:
        raise InputError(
            f"`{key}` is {value!r}: must be text (in quotes), a finite number, true, false, null, "
            "or a list or mapping of these"
        )


def _copy(value: Any) -> Any:
    """A copy of plain values with text keys and lists: changes must not reach the caller's tree."""
    if isinstance(value, Mapping):
        return {str(key): _copy(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_copy(item) for item in value]
    return value


# ---- messages ----


def format_validation_error(error: ValidationError) -> str:
    """One line for the first mistake (key, value, rule, remedy), and the number of the others."""
    errors = error.errors(include_url=False)
    line = _format_mistake(errors[0])
    others = len(errors) - 1
    if others:
        line += f" (and {others} more mistake{'s' if others > 1 else ''})"
    return line


def _format_mistake(mistake: Any) -> str:
    # pydantic puts the tried type into the location of a value with several types.
    location = [str(part) for part in mistake["loc"]]
    key = ".".join(part for part in location if not re.fullmatch(r"int|float|str|tuple\[.*", part))
    if mistake["type"] == "extra_forbidden":
        near = _nearest_key(key) if len(key) <= MAX_VALUE_CHARS else ""
        return f"unknown key `{_shortened(key)}`{near}"
    if mistake["type"] == "missing":
        return f"`{key}` is missing"
    rule = mistake["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    rule = _shortened(rule, MAX_RULE_CHARS)
    if not key:
        return rule
    secret = isinstance(mistake.get("ctx", {}).get("error"), SecretError)
    value = "" if secret else f" is {_shortened(repr(mistake['input']))}"
    return f"`{key}`{value}: {rule}{_percent_hint(mistake)}"


def _percent_hint(mistake: Any) -> str:
    """A remedy for `95` where a fraction such as `0.95` is asked for."""
    value = mistake["input"]
    limit = mistake.get("ctx", {}).get("le")
    if limit == 1 and isinstance(value, int | float) and 1 < value <= 100:
        return f"; did you mean {value / 100}?"
    return ""


def known_keys(model: type[BaseModel] = Config, prefix: str = "") -> list[str]:
    """Every dotted key of the configuration: sections and values."""
    keys = []
    for name, field in model.model_fields.items():
        keys.append(prefix + name)
        annotation = field.annotation
        is_union = get_origin(annotation) in (Union, UnionType)
        for option in get_args(annotation) if is_union else (annotation,):
            if isinstance(option, type) and issubclass(option, Section):
                keys += known_keys(option, f"{prefix}{name}.")
    return keys


def _nearest_key(key: str) -> str:
    """`; did you mean ...?` for the known key that looks most like `key`."""
    known = known_keys()
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.75)
    if near:
        return f"; did you mean `{near[0]}`?"
    # A right key in the wrong section, or without one. The first section that has the name wins.
    by_leaf = {other.rsplit(".", 1)[-1]: other for other in reversed(known)}
    near = difflib.get_close_matches(key.rsplit(".", 1)[-1], list(by_leaf), n=1, cutoff=0.6)
    if near:
        return f"; did you mean `{by_leaf[near[0]]}`?"
    return f"; sections are {', '.join(Config.model_fields)}"


def describe_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The differences of two flat configurations as text; empty when they are equal."""
    keys = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
    shown = [
        f"{key} was {_shortened(json.dumps(before.get(key)))}, "
        f"is {_shortened(json.dumps(now.get(key)))}"
        for key in keys[:MAX_CHANGES_SHOWN]
    ]
    others = len(keys) - len(shown)
    return "; ".join(shown) + (f" (and {others} more)" if others else "")


def _shortened(text: str, length: int = MAX_VALUE_CHARS) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."
