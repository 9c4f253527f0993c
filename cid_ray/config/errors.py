"""Errors a user can fix, and the one-line summary of any other error."""

from __future__ import annotations

MAX_MESSAGE_CHARS = 2000


class InputError(Exception):
    """A mistake of the user. The message names path, value, rule and remedy. Exit code 2.

    It is one line, whatever a file holds that it quotes: line breaks and other characters that
    cannot be printed are escaped, and the middle of a very long message is left out.

    Example:
        >>> load_config(None, ["train.steps=0"])
        Traceback (most recent call last):
        cid_ray.config.errors.InputError: `train.steps` is 0: must be greater than or equal to 1
    """

    def __init__(self, message: str):
        super().__init__(_one_line(message))


def error_summary(error: BaseException, with_type: bool = False) -> str:
    """The first line of an error's message, or the name of its type when it has no message.

    Object stores append `. Detail: ...` with request ids and pages of XML. That part is left out.

    Args:
        error: any exception.
        with_type: put the type's name in front, as Python does in a traceback's last line.
    """
    type_name = type(error).__name__
    lines = str(error).split(". Detail")[0].strip().splitlines()
    if not lines:
        return type_name
    return f"{type_name}: {lines[0]}" if with_type else lines[0]


def _one_line(message: str) -> str:
    """A message that a terminal and a log show as one line of at most MAX_MESSAGE_CHARS."""
    if not message.isprintable():
        message = "".join(map(_escaped, message))
    if len(message) <= MAX_MESSAGE_CHARS:
        return message
    half = MAX_MESSAGE_CHARS // 2 - 3  # the path comes first and the remedy last
    return f"{message[:half]} ... {message[-half:]}"


def _escaped(character: str) -> str:
    if character.isprintable():
        return character
    return character.encode("unicode_escape").decode("ascii")
