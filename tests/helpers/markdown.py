"""The documentation as tests read it: fenced blocks, commands, inline code, links, sentences."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

COMMAND = re.compile(r"(?:python -m cid_ray\.|\bcid-ray )(?P<name>[a-z_]+)(?P<args>[^`]*)")
FENCE = re.compile(r"\s*```(?P<language>\w*)\s*$")
INLINE_CODE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)")
LIST_ITEM = re.compile(r"\s*(?:[-*]|\d+\.)\s+")
SHELL_OPERATORS = set("();<>|&")


@dataclass(frozen=True)
class Block:
    """A fenced block: its page, the number of its first line, its language and its text."""

    page: Path
    line: int
    language: str
    text: str

    def command_lines(self) -> list[str]:
        """Its lines, joined over backslashes, without empty lines and comments."""
        lines = re.sub(r"\\\n\s*", " ", self.text).splitlines()
        return [line.strip() for line in lines if line.strip() and line.strip()[0] != "#"]


@dataclass(frozen=True)
class CommandLine:
    """A command of cid_ray and its arguments, such as `train` and `--resume DIR`."""

    name: str
    args: list[str]


def read_blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page, in order."""
    found: list[Block] = []
    opened: tuple[int, str] | None = None
    lines: list[str] = []
    for number, line in enumerate(page.read_text().splitlines(), 1):
        fence = FENCE.match(line)
        if fence and opened is None:
            opened = (number + 1, fence["language"])
            lines = []
        elif fence and opened is not None:
            text = "\n".join(lines) + "\n"
            found.append(Block(page, *opened, text))
            opened = None
        else:
            lines.append(line)
    assert opened is None, f"{page}: the block at line {opened} has no end"
    return found


def without_blocks(page: Path) -> list[str]:
    """The lines of a page that are in no fenced block."""
    inside = False
    kept = []
    for line in page.read_text().splitlines():
        if FENCE.match(line):
            inside = not inside
        elif not inside:
            kept.append(line)
    return kept


def find_command(line: str) -> CommandLine | None:
    """The first command of cid_ray in a shell line, without what the shell does with its output."""
    match = COMMAND.search(line)
    if match is None:
        return None
    lexer = shlex.shlex(match["args"], posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    args = itertools.takewhile(lambda word: not set(word) <= SHELL_OPERATORS or not word, lexer)
    return CommandLine(match["name"], list(args))


def inline_code(page: Path) -> list[str]:
    """What is in single backticks outside of fenced blocks."""
    return INLINE_CODE.findall("\n".join(without_blocks(page)))


def links(page: Path) -> list[tuple[str, str]]:
    """Target and anchor of every link to a file or to a heading of this page."""
    found = LINK.findall("\n".join(without_blocks(page)))
    return [(target, anchor) for target, anchor in found if "://" not in target]


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    headings = [line.lstrip("# ") for line in without_blocks(page) if line.startswith("#")]
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


def paragraphs(page: Path) -> Iterator[str]:
    """Paragraphs and list items of a page: no headings, tables, images or code."""
    lines: list[str] = []
    for line in [*without_blocks(page), ""]:
        is_item = LIST_ITEM.match(line)
        is_prose = line.strip() and not line.lstrip().startswith(("#", "|", "!", "<", "    "))
        if lines and (is_item or not is_prose):
            yield " ".join(lines)
            lines = []
        if is_prose:
            lines.append(LIST_ITEM.sub("", line).strip())


def sentence_lengths(page: Path) -> list[int]:
    """Words of every sentence of a page."""
    sentences = [
        sentence.split()
        for paragraph in paragraphs(page)
        for sentence in re.split(r"(?<=[.!?])\s+", paragraph)
    ]
    return [len(words) for words in sentences if words]
