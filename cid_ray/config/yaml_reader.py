"""YAML that somebody else may have written, with limits that no configuration reaches.

A file of a few lines can stand for more values than a machine can hold, and a number of thousands
of digits takes long to read and cannot be printed.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from cid_ray.config.errors import InputError, error_summary
from cid_ray.config.text_files import read_utf8

MAX_FILE_BYTES = 256 * 1024  # read in about four seconds; ours have 2 to 6 KB
MAX_VALUES = 100_000  # with every alias written out
MAX_MERGED = 16  # mappings that one `<<` may name
MAX_KEYS = 10_000  # of one mapping
MAX_BITS = 64  # of an integer


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads `1e-3` as a number: YAML 1.1 asks for `1.0e-3` and reads a string."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Bound what `<<` copies: in some versions of PyYAML each level multiplies the keys."""
        for key, value in node.value:
            is_list = key.tag.endswith(":merge") and isinstance(value, yaml.SequenceNode)
            if is_list and len(value.value) > MAX_MERGED:
                raise yaml.YAMLError(f"`<<` names more than {MAX_MERGED} mappings")
        super().flatten_mapping(node)
        if len(node.value) > MAX_KEYS:
            raise yaml.YAMLError(f"a mapping has more than {MAX_KEYS:,} keys")


class _Dumper(yaml.SafeDumper):
    """SafeDumper that quotes a text which `_Loader` would read as a number."""


for _yaml_class in (_Loader, _Dumper):
    _yaml_class.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[+-]?\d+(\.\d*)?[eE][+-]?\d+$"),
        list("+-0123456789"),
    )


def dump_yaml(value: Any) -> str:
    """YAML text that `parse_yaml` reads back as an equal value."""
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False)
    return text


def parse_yaml(text: str) -> Any:
    """The value of a YAML text, None for an empty one.

    Raises:
        yaml.YAMLError: it is no YAML, holds several documents, or is too large: nested too deeply,
            an integer of more than MAX_BITS bits, or aliases that expand to more than MAX_VALUES
            values.
    """
    documents = parse_documents(text)
    if len(documents) > 1:
        raise yaml.YAMLError("it holds several documents")
    return documents[0] if documents else None


def parse_documents(text: str) -> list[Any]:
    """The values of the documents in a YAML text; errors as for `parse_yaml`."""
    try:
        documents = list(yaml.load_all(text, Loader=_Loader))
        if _num_values(documents, {}) > MAX_VALUES:
            raise yaml.YAMLError(f"its aliases expand to more than {MAX_VALUES:,} values")
    except RecursionError:
        raise yaml.YAMLError("nested too deeply, or it contains itself") from None
    except ValueError as error:
        raise yaml.YAMLError(error_summary(error)) from None
    return documents


def read_documents(path: Path) -> list[Any]:
    """The documents of a YAML file.

    Raises:
        InputError: it is too large, or no YAML; the message names file and line.
    """
    try:
        return parse_documents(read_utf8(path, MAX_FILE_BYTES))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or error_summary(error)
        raise InputError(f"{path}{line}: not valid YAML ({reason})") from None


def _num_values(value: Any, known: dict[int, int]) -> int:
    """How many values there are when every alias is written out. `known` is a cache by identity."""
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        raise ValueError(f"an integer has more than {MAX_BITS} bits")
    if not isinstance(value, (dict, list)):
        return 1
    if id(value) not in known:
        parts = [*value.keys(), *value.values()] if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_num_values(part, known) for part in parts)
    return known[id(value)]
