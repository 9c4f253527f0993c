"""Errors a user can fix, and the one-line summary of any other error."""

from __future__ import annotations


class InputError(Exception):
    """A mistake of the user. The message names path, value, rule and remedy. Exit code 2.

    Example:
        >>> load_config(None, ["train.steps=0"])
        Traceback (most recent call last):
        cid_ray.config.errors.InputError: `train.steps` is 0: must be greater than or equal to 1
    """


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
