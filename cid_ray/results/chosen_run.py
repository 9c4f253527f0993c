"""Which run of a folder `RUN`, `RUN:RATIO` or `RUN:NAME` means."""

from __future__ import annotations

from pathlib import Path

from cid_ray.config import InputError
from cid_ray.results.records import Record, of_event
from cid_ray.results.summary import RatioSummary
from cid_ray.storage import paths

MAX_NAMES = 12  # in a message


def split_choice(text: str) -> tuple[str, str]:
    """RUN and what comes after its last colon, if that is no part of the path.

    Example:
        >>> split_choice("runs/demo:1/4")
        ('runs/demo', '1/4')
    """
    folder, colon, choice = text.rpartition(":")
    if not colon or choice.startswith("//"):
        return text, ""
    if not paths.is_remote(text) and Path(text).exists():  # its name holds a colon
        return text, ""
    return folder, choice


def choose_run(
    records: list[Record], found: list[RatioSummary], choice: str, folder: str
) -> Record:
    """The final record of the run that is meant.

    Args:
        records: of the run folder.
        found: their summaries.
        choice: a ratio, the name of a trial, or "" for the best CID trial at the most labels.
        folder: the run folder, for messages.

    Raises:
        InputError: there is no such run; the message says what there is.
    """
    finals = {record["run"]: record for record in of_event(records, "final")}
    if not finals:
        raise InputError(f"{folder} holds no run that has ended; --resume it first")
    if choice in finals:
        return finals[choice]
    summaries = {summary.ratio: summary for summary in found}
    if choice and choice not in summaries:
        known = [*summaries, *finals]
        more = ", ..." if len(known) > MAX_NAMES else ""
        raise InputError(
            f"{folder} has neither a ratio nor a trial {choice!r}, but "
            f"{', '.join(known[:MAX_NAMES])}{more}"
        )
    candidates = [summaries[choice]] if choice else [*summaries.values()][::-1]
    for summary in candidates:
        if "cid" in summary.chosen:
            return summary.chosen["cid"]
    # A run of `train` is of one method, which need not be CID.
    others = [record for summary in candidates for record in summary.chosen.values()]
    if len(others) == 1:
        return others[0]
    named = ", ".join(f"{folder}:{record['run']}" for record in others)
    raise InputError(f"{folder} has no best CID trial; name one: {named or 'none has ended'}")
