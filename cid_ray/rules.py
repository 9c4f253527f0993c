"""Rules that a configuration and those who act on it share: who takes which images, what a label ratio means."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

CUTMIX_GROUP = 2  # unlabeled images that CutMix mixes with each other: they stay on one worker


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A tree of sections as dotted key -> value."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {prefix + key: value}
    return found


def share_of(batch: int, rank: int, world: int, unit: int = 1) -> range:
    """Which images of a global batch a worker takes: whole units, in rank order, as evenly as possible.

    Units keep together what belongs together, so the same pairs are mixed on any number of workers; a last unit that is
    incomplete is part of the last share.
    """
    units = -(-batch // unit)
    first, last = (min(batch, unit * (units * r // world)) for r in (rank, rank + 1))
    return range(first, last)


def label_share(ratio: Any) -> tuple[float | None, int | None]:
    """ "1/8" or "0.2" -> (share, None); a whole number above 1 -> (None, count)."""
    text = str(ratio).replace(" ", "")
    try:
        top, _, bottom = text.partition("/")
        number = float(top) / float(bottom or 1)
        if not math.isfinite(number):
            raise ValueError
    except (ValueError, ZeroDivisionError):
        number = -1.0
    if not bottom and number > 1 and number == int(number):
        return None, int(number)
    if not 0 < number <= 1:
        raise ValueError(f"label ratio {ratio!r} must be a share such as '1/8' or a count of at least 2 such as '23'")
    return number, None


class Secret(ValueError):
    """A rule that was broken by a value which nobody may repeat."""


def database(url: str) -> str:
    """A SQLAlchemy URL without a password, which would stand in every row."""
    if not re.fullmatch(r"\w+(\+\w+)?://([^:@/]+@)?[^@]*", url) or "password" in url:
        raise Secret(
            "must be a URL like postgresql+psycopg://host/database; user and password are taken from the environment "
            "(PGUSER, PGPASSWORD) or ~/.pgpass"
        )
    return url


def place(name: str) -> str:
    """A folder, or one in an object store: without credentials, which would stand in every row."""
    if "://" in name and not re.fullmatch(r"s3://[^@?#/]+(/[^@?#]*)?", name):
        raise (Secret if "@" in name else ValueError)(
            "must be a folder or s3://bucket/path; credentials and endpoint are taken "
            "from the environment (AWS_ACCESS_KEY_ID, ..., AWS_ENDPOINT_URL)"
        )
    return name


def without_secrets(tree: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """No key, token, password or address with one: they would stand in the run's folder."""
    for key, value in flat(tree).items():
        if re.search(r"(key|token|password|secret)$", key, re.IGNORECASE) or re.search(r"://[^/\s]*@", str(value)):
            raise Secret(
                f"holds a secret in {key}, which would stand in the run's folder: leave it out and set it in the "
                "environment (MLFLOW_TRACKING_URI, MLFLOW_TRACKING_PASSWORD, MLFLOW_TRACKING_TOKEN, WANDB_API_KEY)"
            )
    return tree
