"""Damaged and foreign files for tests/fuzz, and the law that every reader keeps.

The number of examples of each reader is FUZZ_EXAMPLES: few and always the same ones in the default
test run, many and random by `make fuzz`.
"""

from __future__ import annotations

import copy
import datetime
import json
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import yaml
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from cid_ray.config import InputError
from cid_ray.config.errors import MAX_MESSAGE_CHARS

T = TypeVar("T")
Edit = tuple[str, int, int, bytes]
Change = tuple[str, int, Any]

DEFAULT_EXAMPLES = 25
MIN_EXAMPLES = 5
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", DEFAULT_EXAMPLES))
MAX_GROWTH_MB = 500  # of this process while it reads one file of less than 2 MB
# Left out: these inputs have limits and tests of their own.
MAX_DEPTH = 12  # of nested JSON or YAML
MAX_DIGITS = 40  # of a number


def fuzz(share: float = 1.0) -> settings:
    """The settings of a test that gets this share of a reader's examples."""
    return settings(
        max_examples=max(MIN_EXAMPLES, round(share * EXAMPLES)),
        derandomize=EXAMPLES == DEFAULT_EXAMPLES,
        deadline=None,  # pytest's timeout ends an example that hangs
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
    )


def result_or_refusal(read: Callable[[], T], *names: object) -> T | None:
    """What a reader returns, or None when it refuses the file.

    The law: it raises nothing but InputError, in one line that holds one of `names`, and it takes
    no memory that the file does not account for.
    """
    before = _peak_mb()
    result = None
    try:
        result = read()
    except InputError as error:
        message = str(error)
        assert message.isprintable(), message
        assert len(message) <= MAX_MESSAGE_CHARS, message
        assert any(str(name) in message for name in names), message
    assert _peak_mb() - before < MAX_GROWTH_MB
    return result


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# ---- damaged files ----

POSITIONS = 2**24  # a place in a file as a fraction; hypothesis draws up to 24 bits evenly


def _cut(content: bytes, start: int, end: int, other: bytes) -> bytes:
    return content[:start] + content[end:]


def _keep(content: bytes, start: int, end: int, other: bytes) -> bytes:
    return content[start:end]


def _repeat(content: bytes, start: int, end: int, other: bytes) -> bytes:
    return content[:end] + content[start:]


def _insert(content: bytes, start: int, end: int, other: bytes) -> bytes:
    return content[:start] + other + content[start:]


def _overwrite(content: bytes, start: int, end: int, other: bytes) -> bytes:
    return content[:start] + other + content[start + len(other) :]


def _flip(content: bytes, start: int, end: int, other: bytes) -> bytes:
    flipped = bytearray(content)
    if flipped:
        flipped[min(start, len(content) - 1)] ^= 1 << end % 8
    return bytes(flipped)


def _zeros(content: bytes, start: int, end: int, other: bytes) -> bytes:
    return content[:start] + bytes(end - start) + content[end:]


def _swap_lines(content: bytes, start: int, end: int, other: bytes) -> bytes:
    lines = content.split(b"\n")
    first, second = content[:start].count(b"\n"), content[:end].count(b"\n")
    lines[first], lines[second] = lines[second], lines[first]
    return b"\n".join(lines)


def _remove_line(content: bytes, start: int, end: int, other: bytes) -> bytes:
    lines = content.split(b"\n")
    del lines[content[:start].count(b"\n")]
    return b"\n".join(lines)


def _repeat_line(content: bytes, start: int, end: int, other: bytes) -> bytes:
    lines = content.split(b"\n")
    line = lines[content[:start].count(b"\n")]
    lines.insert(content[:end].count(b"\n"), line)
    return b"\n".join(lines)


def _replace(content: bytes, start: int, end: int, other: bytes) -> bytes:
    return other


def _byte_order_mark(content: bytes, start: int, end: int, other: bytes) -> bytes:
    return b"\xef\xbb\xbf" + content


def _utf16(content: bytes, start: int, end: int, other: bytes) -> bytes:
    return content.decode("latin-1").encode("utf-16")


DAMAGE: dict[str, Callable[[bytes, int, int, bytes], bytes]] = {
    "flip": _flip,
    "overwrite": _overwrite,
    "insert": _insert,
    "cut": _cut,
    "keep": _keep,
    "repeat": _repeat,
    "zeros": _zeros,
    "swap_lines": _swap_lines,
    "remove_line": _remove_line,
    "repeat_line": _repeat_line,
    "replace": _replace,
    "byte_order_mark": _byte_order_mark,
    "utf16": _utf16,
}
# A flip is the damage that is hardest to notice, so it is half of all.
_kinds = st.one_of(st.just("flip"), st.sampled_from(sorted(DAMAGE)))
_positions = st.integers(0, POSITIONS - 1)
edits = st.lists(
    st.tuples(_kinds, _positions, _positions, st.binary(max_size=12)), min_size=1, max_size=3
)


def damage(content: bytes, edits: list[Edit]) -> bytes:
    """A copy of a file's content with some damage."""
    for kind, first, second, other in edits:
        start, end = sorted(position * len(content) // POSITIONS for position in (first, second))
        content = DAMAGE[kind](content, start, end, other)
    return content


def untouched_lines(content: bytes, edits: list[Edit]) -> set[str]:
    """The lines that a file has both before and after its damage."""
    before = content.decode().splitlines()
    after = damage(content, edits).decode(errors="replace").splitlines()
    return set(before) & set(after)


# ---- foreign content ----

ODD_TEXT = (
    "",
    " ",
    "x",
    "é±",
    "a\nb",
    "\0",
    "\x1b[31m",
    "\u2028",
    "\ud800",
    "..",
    "/etc",
    "x" * 3000,
)
ODD_NUMBERS = (0, 1, -1, 2, 255, 256, 2**31, 2**63, -(2**63) - 1, 10**MAX_DIGITS, 0.5, -0.0, 1e308)
ODD_OBJECTS = (datetime.date(2026, 1, 1), b"\xff", b"text")  # YAML has them, JSON has not
NO_NUMBERS = (float("nan"), float("inf"), -float("inf"))
leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(ODD_NUMBERS),
    st.sampled_from(NO_NUMBERS),
    st.sampled_from(ODD_TEXT),
    st.sampled_from(ODD_OBJECTS),
    st.integers(-(10**6), 10**6),
    st.floats(),
    st.text(max_size=8),
)
trees = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=6), inner, max_size=4)
    ),
    max_leaves=MAX_DEPTH,
)
numbers = st.one_of(st.sampled_from(ODD_NUMBERS), st.sampled_from(NO_NUMBERS), st.integers(-3, 99))
changes = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["set", "set", "remove", "rename", "copy"]), _positions, trees),
        st.tuples(st.just("number"), _positions, numbers),
    ),
    min_size=1,
    max_size=3,
)


def paths_in(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The place of every value in nested mappings and lists."""
    yield path
    if isinstance(tree, dict):
        items: Any = tree.items()
    else:
        items = enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield from paths_in(value, (*path, key))


def change(tree: Any, changes: list[Change]) -> Any:
    """A copy of nested plain values in which some are replaced, removed, renamed or copied."""
    tree = copy.deepcopy(tree)
    for kind, position, value in changes:
        places = list(paths_in(tree))
        if kind == "number":  # most limits are on numbers: change one of those
            places = [each for each in places if type(value_at(tree, each)) in (int, float)]
        if not places:
            continue
        place = places[position * len(places) // POSITIONS]
        if not place:
            tree = value if kind == "set" else tree
            continue
        _change_one(value_at(tree, place[:-1]), place[-1], kind, value)
    return tree


def value_at(tree: Any, place: tuple[Any, ...]) -> Any:
    """The value at a place of `paths_in`."""
    for key in place:
        tree = tree[key]
    return tree


def _change_one(parent: Any, key: Any, kind: str, value: Any) -> None:
    if kind in ("set", "number"):
        parent[key] = value
    elif kind == "remove":
        del parent[key]
    elif isinstance(parent, list):
        parent.insert(key, parent[key] if kind == "copy" else value)
    else:
        content = parent[key] if kind == "copy" else parent.pop(key)
        parent[str(value)] = copy.deepcopy(content)


def as_json(tree: Any) -> bytes:
    return json.dumps(tree, default=str).encode()


def as_yaml(tree: Any) -> bytes:
    try:  # libyaml's dumper, where PyYAML has it, is ten times as fast
        dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
        return yaml.dump(tree, Dumper=dumper, sort_keys=False).encode()
    except UnicodeEncodeError:  # libyaml does not escape lone surrogates
        return yaml.safe_dump(tree, sort_keys=False).encode()


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path
