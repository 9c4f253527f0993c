"""What an import left out, changed or guessed: counted, and named with examples.

Nothing departs from a data set's files in silence. Code that leaves out, changes or guesses
something adds it here; `describe` and `meta.json` show it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from cid_ray.data.ingest.names import shown_name

Kind = Literal["left out", "changed", "guessed"]
MAX_EXAMPLES = 3


@dataclass(frozen=True)
class Note:
    """What a reader changed or guessed of one file. The import adds it to its findings."""

    reason: str  # as `Findings.add` takes it
    detail: str = ""  # what this file's name is followed by: "12 pages"
    kind: Kind = "changed"


@dataclass
class Finding:
    """One thing that an import did to `count` files or images."""

    kind: Kind
    reason: str  # e.g. "EXIF orientation applied"
    count: int = 0
    examples: list[str] = field(default_factory=list)  # the first names

    def describe(self) -> str:
        """One line: "left out: 12 hidden files (e.g. ._a.png)"."""
        more = ", ..." if self.count > len(self.examples) else ""
        return f"{self.kind}: {self.count} {self.reason} (e.g. {', '.join(self.examples)}{more})"


class Findings:
    """The findings of one import, in the order in which each was first made.

    Example:
        >>> findings = Findings()
        >>> findings.add("left out", "hidden files", "._a.png")
        >>> findings.describe()
        ['left out: 1 hidden files (e.g. ._a.png)']
    """

    def __init__(self) -> None:
        self._by_key: dict[tuple[Kind, str], Finding] = {}

    def add(self, kind: Kind, reason: str, name: object, count: int = 1) -> None:
        """Count a file.

        Args:
            kind: left out, changed or guessed.
            reason: a noun phrase in the plural, which follows the count: "hidden files".
            name: the file or image, the example.
            count: more than one when the files are not named one by one.
        """
        finding = self._by_key.setdefault((kind, reason), Finding(kind, reason))
        finding.count += count
        if len(finding.examples) < MAX_EXAMPLES:
            finding.examples.append(shown_name(name))

    def add_note(self, note: Note, name: object) -> None:
        """Count a file by what its reader noted of it."""
        self.add(note.kind, note.reason, f"{name} ({note.detail})" if note.detail else name)

    def discard(self, reason_start: str) -> None:
        """Forget the findings whose reason starts so: what they say was undone."""
        kept = self._by_key.items()
        self._by_key = {key: one for key, one in kept if not key[1].startswith(reason_start)}

    def __iter__(self) -> Iterator[Finding]:
        return iter(self._by_key.values())

    def describe(self) -> list[str]:
        """A line for each finding."""
        return [finding.describe() for finding in self]

    def to_json(self) -> list[dict[str, Any]]:
        """What `meta.json` stores: kind, reason, count, examples."""
        return [asdict(finding) for finding in self]
