"""What a run folder holds, and which command continues it.

A ladder, a search and a training all keep `config.yaml` and `records.jsonl`, so a command that
is given the folder of another one would find trainings there that are not its own.
"""

from __future__ import annotations

import re
from pathlib import Path

from cid_ray.config import InputError
from cid_ray.results.record_lines import parse_line
from cid_ray.results.records import RECORDS_FILE, Record
from cid_ray.storage.run_dir import CONFIG_FILE, RunDir

LADDERS = ("labels", "pool", "batch", "model", "workers", "concurrency")
# The run of a ladder's training, such as "labels-1_16-cid-0". That of a trial begins with a ratio.
TRAINING_RUN = re.compile(rf"({'|'.join(LADDERS)})-.+-\d+")
TRAINING_EVENTS = ("rung", "final", "failed", "retry")


def first_record(folder: Path) -> Record | None:
    """The first record of a run folder; None without any. Only the first lines are read."""
    path = folder / RECORDS_FILE
    if not path.is_file():
        return None
    with path.open("rb") as file:
        for line in file:
            try:
                return parse_line(line)
            except ValueError:
                continue
    return None


def ladder_in(folder: Path) -> str:
    """The name of the ladder that a run folder holds; "" of another run or an empty folder.

    A ladder that was stopped before its first count is known by its trainings.

    Args:
        folder: on this machine.

    Example:
        >>> ladder_in(Path("runs/labels"))
        'labels'
    """
    record = first_record(folder)
    if record is None:
        return ""
    if record["event"] == "ladder":
        return str(record["ladder"])
    training = TRAINING_RUN.fullmatch(record["run"])
    return training[1] if training and record["event"] in TRAINING_EVENTS else ""


def refuse_ladder(run_dir: RunDir) -> None:
    """Check that a run folder, which was pulled, is not a ladder's.

    Args:
        run_dir: what the user named for another command.

    Raises:
        InputError: it is; the message names the commands that continue it and show it.
    """
    ladder = ladder_in(run_dir.local)
    if not ladder:
        return
    commands = f"show it with `python -m cid_ray.report {run_dir}`"
    if (run_dir.local / CONFIG_FILE).is_file():  # a published ladder has its records alone
        commands = f"continue it with `{resume_command(ladder, run_dir)}`, {commands}"
    raise InputError(f"{run_dir} is the folder of a ladder {ladder!r}: {commands}")


def check_ladder_folder(run_dir: RunDir, ladder: str, records: list[Record]) -> None:
    """Check that a run folder holds a ladder and nothing else.

    Args:
        run_dir: what --resume names, pulled.
        ladder: the name of the ladder that is continued.
        records: those of the folder.

    Raises:
        InputError: it holds another ladder, a search or a training; the message says how that is
            continued.
    """
    other = next((r["run"] for r in records if not r["run"].startswith(f"{ladder}-")), "")
    is_search = (run_dir.local / "study.journal").exists()
    if not other and not is_search:
        return
    found = ladder_in(run_dir.local)
    if found and found != ladder:
        what, command = f"a ladder {found!r}", resume_command(found, run_dir)
    elif is_search:
        what, command = "a search", f"python -m cid_ray.tune --resume {run_dir}"
    else:
        what, command = f"the run {other!r}", f"python -m cid_ray.train --resume {run_dir}"
    raise InputError(
        f"--resume {run_dir} is not the folder of a ladder {ladder!r}: it holds {what}, continue "
        f"that with `{command}`, or choose another --out"
    )


def resume_command(ladder: str, run_dir: RunDir) -> str:
    """The command that continues a ladder."""
    return f"python -m cid_ray.scale {ladder} --resume {run_dir}"
