"""The forms in which a classes file names a class a line, recognised by the whole file.

    name                 name r g b             r g b name            name #rrggbb
    id name              id: name               name,id               id,name,r,g,b
    name:r,g,b:parts:actions (CVAT)             a header line (`r,g,b,class`) and its columns

Separators are spaces, tabs, commas and semicolons. A form holds for all lines: a line of another
form is an error, because a guess for one line could shift the ids of all that follow.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass

from cid_ray.data.table_meta import MAX_CLASSES, MAX_NAME_CHARS

MAX_LINE_CHARS = 1000
# `C#` is a name and `#ff0000` a colour. Any other # after a space or at the start is a comment.
COMMENT = re.compile(r"(?:^|(?<=\s))#(?![0-9a-fA-F]{6}(?:[\s,;]|$)).*")
NUMBER = r"-?\d{1,6}(?:\.\d{1,6})?"
GAP = r"(?:\s*[,;:]\s*|\s+)"
COLOR = rf"(?P<r>{NUMBER}){GAP}(?P<g>{NUMBER}){GAP}(?P<b>{NUMBER})"
HEX = r"#(?P<hex>[0-9a-fA-F]{6})"
CVAT = re.compile(rf"(?P<name>.+?):(?:{COLOR.replace(GAP, ',')})?:[^:]*:[^:]*")
NAME_LAST = re.compile(rf"(?:{COLOR}|{HEX}){GAP}(?P<name>.+)")
NAME_FIRST = re.compile(rf"(?P<name>.+?){GAP}(?:{COLOR}|{HEX})[,;]?")
ID_FIRST = re.compile(rf"(?P<id>\d{{1,6}}){GAP}(?P<name>.+)")
ID_LAST = re.compile(rf"(?P<name>.+?){GAP}(?P<id>\d{{1,6}})")
# Without colours `class 1` is a name, but `road,1` is a name and its id.
ID_AFTER_SIGN = re.compile(r"(?P<name>.+?)\s*[,;:=\t]\s*(?P<id>\d{1,6})")

NAME_HEADERS = {"name", "names", "class", "classes", "label", "labels", "category", "class_name"}
ID_HEADERS = {"id", "ids", "index", "idx", "class_id", "label_id", "train_id", "trainid", "value"}
COLOR_HEADERS = {"r": "r", "red": "r", "g": "g", "green": "g", "b": "b", "blue": "b"}
HEX_HEADERS = {"color", "colour", "hex"}
ONE_FORM = "write every line as `name` or every line as `name r g b`"


@dataclass(frozen=True)
class ClassLine:
    """One class of a classes file."""

    number: int  # of its line, from 1
    text: str
    name: str
    color: list[int] | None = None


def parse_class_lines(text: str) -> tuple[list[ClassLine], str | None]:
    """The classes that a text names, and its header line if it has one.

    Raises:
        ValueError: there is no class, or too many; or a line is of another form than the others.
            The message names line, rule and remedy.

    Example:
        >>> parse_class_lines("road:128,64,128::")[0]
        [ClassLine(number=1, text='road:128,64,128::', name='road', color=[128, 64, 128])]
    """
    lines = []
    for number, line in enumerate(text.splitlines(), start=1):
        content = COMMENT.sub("", line.strip()).strip()
        if len(content) > MAX_LINE_CHARS:
            raise ValueError(
                f"line {number}: no class name has more than {MAX_NAME_CHARS} characters, "
                f"the line has {len(content):,}"
            )
        content = re.sub(r"\s*\t\s*", "\t", content)
        content = re.sub(" {2,}", " ", content)  # keeps the time of the patterns below short
        if content:
            lines.append(ClassLine(number, content, content))
    header = _header_columns(lines[0].text) if lines else None
    rows = lines if header is None else lines[1:]
    if not rows:
        raise ValueError("names no class")
    if len(rows) > MAX_CLASSES:
        raise ValueError(f"names {len(rows)} classes, at most {MAX_CLASSES}")
    if header is None:
        return _by_form(rows), None
    return (_by_columns(rows, header) if len(header) > 1 else _by_form(rows)), lines[0].text


def _by_form(lines: list[ClassLine]) -> list[ClassLine]:
    """Lines without a header: the form that all of them have."""
    found = [CVAT.fullmatch(line.text) for line in lines]
    if all(found):
        return _with_colors(lines, found)
    if any(match and match["r"] for match in found):
        other = lines[found.index(None)]
        raise ValueError(
            f"line {other.number}: {other.text!r} must look like `name:r,g,b::`, as other lines do"
        )
    last = [NAME_LAST.fullmatch(line.text) for line in lines]
    first = [NAME_FIRST.fullmatch(line.text) for line in lines]
    if all(last) and all(first):
        line = lines[0]
        raise ValueError(
            f"line {line.number}: {line.text!r} may be `name r g b` or `r g b name`; "
            "begin names with a letter"
        )
    num_last, num_first = (sum(map(bool, matches)) for matches in (last, first))
    return _without_ids(_with_colors(lines, last if num_last > num_first else first))


def _with_colors(lines: list[ClassLine], found: Sequence[re.Match[str] | None]) -> list[ClassLine]:
    """Lines with the names and colours that a form has found."""
    rows = []
    for line, match in zip(lines, found, strict=True):
        if match is None:
            rows.append(line)
            continue
        parts = match.groupdict()
        channels = [parts["r"], parts["g"], parts["b"]]
        color = _read_color(line, parts.get("hex"), channels)
        rows.append(ClassLine(line.number, line.text, _unquote(match["name"]), color))
    return _check_all_or_none(rows)


def _check_all_or_none(rows: list[ClassLine]) -> list[ClassLine]:
    """ValueError if some classes have a colour and some none."""
    colored = [row for row in rows if row.color is not None]
    plain = [row for row in rows if row.color is None]
    if colored and plain:
        rare, has, others = plain[0], "no colour", "have one"
        if len(colored) < len(plain):
            rare, has, others = colored[0], "a colour", "have none"
        raise ValueError(
            f"line {rare.number}: {rare.text!r} has {has}, other lines {others}; {ONE_FORM}"
        )
    for row in plain:
        if re.fullmatch(HEX, row.text):
            raise ValueError(f"line {row.number}: {row.text!r} is a colour without a name")
    return rows


def _read_color(line: ClassLine, hex_digits: str | None, channels: list[str]) -> list[int] | None:
    if hex_digits:
        return list(bytes.fromhex(hex_digits))
    if not any(channels):
        return None
    if not all(re.fullmatch(r"\d{1,6}", channel or "") for channel in channels):
        raise ValueError(
            f"line {line.number}: {line.text!r} has a colour that is not three whole numbers; "
            "channels are from 0 to 255"
        )
    color = [int(channel) for channel in channels]
    if max(color) > 255:
        raise ValueError(
            f"line {line.number}: {line.text!r} has a colour above 255; channels are from 0 to 255"
        )
    return color


def _without_ids(rows: list[ClassLine]) -> list[ClassLine]:
    """Rows without the ids that stand before or after the names."""
    has_colors = rows[0].color is not None
    for form in (ID_FIRST, ID_LAST if has_colors else ID_AFTER_SIGN):
        found = [form.fullmatch(row.name) for row in rows]
        count = sum(map(bool, found))
        if count == len(rows):
            ids = [match["id"] for match in found if match]
            names = [_unquote(match["name"]) for match in found if match]
            return _in_order(rows, ids, names, with_alpha=has_colors and form is ID_LAST)
        if form is ID_FIRST and count > len(rows) / 2:
            row = next(row for row, match in zip(rows, found, strict=True) if not match)
            raise ValueError(
                f"line {row.number}: {row.text!r} does not begin with an id, most lines do; "
                "write every line as `id name` or every line as `name`"
            )
    return rows


def _in_order(
    rows: list[ClassLine], ids: list[str], names: list[str], with_alpha: bool = False
) -> list[ClassLine]:
    """Rows with their names; ValueError if their ids are not 0, 1, 2, ..."""
    for expected, (row, found) in enumerate(zip(rows, ids, strict=True)):
        if int(found) != expected:
            remedy = "sort the lines by id and name every id"
            if with_alpha:
                remedy = "of four numbers the first is an id; a colour is three, without alpha"
            elif expected == 0 and int(found) == 1:
                remedy = "leave the ids out, and import with --first-id 1"
            raise ValueError(
                f"line {row.number}: {row.text!r} has id {int(found)} where {expected} is due: "
                f"the ids of the lines must be 0, 1, 2, ...; {remedy}"
            )
    return [
        ClassLine(row.number, row.text, name, row.color)
        for row, name in zip(rows, names, strict=True)
    ]


def _header_columns(line: str) -> list[str] | None:
    """The columns that a header line names: "name", "id", "r", "g", "b", "hex" or ""."""
    columns = []
    for cell in _split_cells(line):
        word = cell.lower().replace(" ", "_")
        column = COLOR_HEADERS.get(word, "")
        if word in NAME_HEADERS:
            column = "name"
        elif word in ID_HEADERS:
            column = "id"
        elif word in HEX_HEADERS:
            column = "hex"
        columns.append(column)
    known = [column for column in columns if column]
    is_header = known.count("name") == 1 and len(set(known)) == len(known)
    if not is_header or (len(columns) > 1 and len(known) < 2):
        return None
    return columns


def _split_cells(line: str) -> list[str]:
    signs = [sign for sign in ",;\t" if sign in line]
    if not signs:
        return line.split()
    return [cell.strip() for cell in next(csv.reader([line], delimiter=signs[0]))]


def _by_columns(lines: list[ClassLine], columns: list[str]) -> list[ClassLine]:
    rows, ids = [], []
    for line in lines:
        cells = _split_cells(line.text)
        if len(cells) != len(columns):
            raise ValueError(
                f"line {line.number}: {line.text!r} has {len(cells)} cells, "
                f"the header line has {len(columns)}; separate the cells by commas"
            )
        row = dict(zip(columns, cells, strict=True))
        hex_digits = row.get("hex", "").lstrip("#")
        if hex_digits and not re.fullmatch("[0-9a-fA-F]{6}", hex_digits):
            raise ValueError(f"line {line.number}: {line.text!r} has no colour of the form #rrggbb")
        color = _read_color(line, hex_digits, [row.get(channel, "") for channel in "rgb"])
        rows.append(ClassLine(line.number, line.text, _unquote(row["name"]), color))
        ids.append(row.get("id", ""))
    _check_all_or_none(rows)
    if "id" not in columns:
        return rows
    for line, found in zip(lines, ids, strict=True):
        if not re.fullmatch(r"\d{1,6}", found):
            raise ValueError(f"line {line.number}: {line.text!r} has no id that is a whole number")
    return _in_order(rows, ids, [row.name for row in rows])


def _unquote(name: str) -> str:
    name = name.strip()
    return name[1:-1].strip() if len(name) > 2 and name[0] == name[-1] == '"' else name
