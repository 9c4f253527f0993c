"""Says during a search that the pool hurts: a method that uses it is below supervised on val,
beyond noise.
"""

from __future__ import annotations

from cid_ray.callbacks.base import Callback
from cid_ray.results.formatting import format_p
from cid_ray.results.records import read_records
from cid_ray.results.summary import METHOD_NAMES, RatioSummary, summarize
from cid_ray.search.controller import Search
from cid_ray.search.trial_spec import TrialSpec


class PoolAlarm(Callback):
    """Compares the repeats of a ratio on val whenever one has finished; says each run once."""

    def __init__(self) -> None:
        self.said: set[str] = set()

    def on_search_start(self, search: Search) -> None:
        self.search = search

    def on_trial_complete(self, trial: TrialSpec, state: str) -> None:
        if not trial.key.repeats_of:
            return
        records = read_records(self.search.run_dir.local, warn=False)
        for summary in summarize(records, self.search.config.search.metric):
            if summary.ratio == trial.key.ratio:
                for run, text in hurting_runs(summary).items():
                    if run not in self.said:
                        self.said.add(run)
                        self.search.log(f"warning: {text}", important=True)


def hurting_runs(summary: RatioSummary) -> dict[str, str]:
    """run -> in words by how much it is below supervised only on val; of those beyond noise.

    Args:
        summary: of a search that may still run; what repeats have finished is compared.
    """
    noise = summary.noise("val")
    methods = {run: summary.method_of(run) for run in noise.scores}
    supervised = next((run for run, method in methods.items() if method == "supervised"), None)
    if supervised is None:
        return {}
    others = [run for run in noise.scores if run != supervised]
    return {
        run: (
            f"{summary.name}: the pool is hurting: {METHOD_NAMES[methods[run]]} is "
            f"{found.difference:.2f} below supervised only on val ({format_p(found.adjusted_p)}, "
            f"{noise.num_repeats} repeats of {run})"
        )
        for run, found in noise.compare(supervised, others).items()
        if found.difference > 0 and found.above_noise
    }
