"""The order of a search's trials, as pure functions of counts.

The trial queue asks them about its Optuna studies, a simulation of a search about simulated ones
(`planning.simulated_search`). So a plan has the order that the search will have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from cid_ray.config import parse_label_ratio
from cid_ray.config.search_schema import RepeatsConfig, SearchConfig
from cid_ray.search.trial_spec import StudyKey

Counter = Callable[[StudyKey], int]


def next_study(
    keys: Iterable[StudyKey], n_started: Counter, n_trials: Counter, search: SearchConfig
) -> StudyKey | None:
    """The study whose trial starts next: baselines, then CID, then repeats; the fewest started
    trials first. None when all trials have started.
    """
    unfinished = [key for key in keys if n_started(key) < n_trials(key)]

    def turn(key: StudyKey) -> tuple[int, int, int]:
        """By phase, by ratio where ratios run one after the other, and by started trials."""
        phase = 2 if key.repeats_of else int(key.method == "cid")
        in_order = search.warm_start_ratios and not key.repeats_of
        return phase, ratio_index(key.ratio, search) if in_order else 0, n_started(key)

    return min(unfinished, key=turn, default=None)


def ratio_index(ratio: str, search: SearchConfig) -> int:
    """Position of a ratio when sorted by labels, fewest first."""
    by_labels = sorted(search.all_ratios, key=lambda r: sum(x or 0 for x in parse_label_ratio(r)))
    return by_labels.index(ratio)


def ratio_is_finished(
    keys: Iterable[StudyKey], n_started: Counter, n_trials: Counter, n_running: Counter
) -> bool:
    """Whether all trials of a ratio's studies have finished, so that its repeats may start."""
    return not any(n_started(key) < n_trials(key) or n_running(key) for key in keys)


def n_candidates(method: str, repeats: RepeatsConfig) -> int:
    """How many of a study's best trials are repeated."""
    return repeats.top if method == "cid" else 1


def n_repeats(keys: Iterable[StudyKey], n_trials: Counter, repeats: RepeatsConfig) -> int:
    """How many repeats the best trials of some studies get, at most."""
    return sum(repeats.n * min(n_trials(k), n_candidates(k.method, repeats)) for k in keys)


def is_tested_at_its_end(key: StudyKey, n_trials: Counter) -> bool:
    """Whether each trial is scored on test when it ends. Of many trials only the best is, after
    the search.
    """
    return bool(key.repeats_of) or (key.method != "cid" and n_trials(key) == 1)
