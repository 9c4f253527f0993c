"""The fields that every record has."""

from __future__ import annotations

# pydantic rejects typing's own TypedDict before Python 3.12
from typing_extensions import TypedDict

from cid_ray.results.score_types import Count, Method, TrialNumber


class CommonFields(TypedDict):
    """Fields of every record, so that nobody has to parse a run's name."""

    run: str  # name of the run; of `search` and `noise` the name of the study or comparison
    ratio: str  # label ratio as configured: "1/16"
    method: Method  # "" in `noise`, `disk` and `plan`, which are about several
    trial_number: TrialNumber  # number in the Optuna study; 0 for `train`
    repeats_of: str  # the run that this one repeats with another seed; "" for a first run
    repeat_index: Count  # counts the repeats of a run from 1; 0 for a first run
