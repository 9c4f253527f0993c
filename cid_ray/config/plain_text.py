"""Text from data without control characters, for terminals and reports.

Run names, class names, error messages, paths and values may have been written by somebody else. An
escape sequence in them could colour, overwrite or hide what a terminal shows, or set its title.
"""

from __future__ import annotations

import unicodedata

# Unicode's control, format (bidi overrides, tags), surrogate and line-separator characters.
HIDDEN_CATEGORIES = ("Cc", "Cf", "Cs", "Zl", "Zp")
KEPT = "\n\t\u200c\u200d"  # the last two join letters of Persian and parts of emoji


def printable(text: str) -> str:
    """The same text with hidden characters written out.

    Example:
        >>> print(printable("done\\x1b[31m"))
        done\\x1b[31m
    """
    if text.isprintable():
        return text
    return "".join(map(_written_out, text))


def _written_out(character: str) -> str:
    if character in KEPT or unicodedata.category(character) not in HIDDEN_CATEGORIES:
        return character
    return character.encode("unicode_escape").decode()
