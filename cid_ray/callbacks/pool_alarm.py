"""Says during a search that the pool hurts: a method that uses it is below supervised on val,
beyond noise.

Who looks at growing data again and again finds something by chance sooner or later. So there is one
look for each number of repeats that all candidates of a ratio have finished, from two to
`search.repeats.n`, and p is multiplied by the number of these looks (Bonferroni).
"""

from __future__ import annotations

from cid_ray.callbacks.base import Callback
from cid_ray.results.formatting import format_p
from cid_ray.results.noise import ALPHA
from cid_ray.results.records import read_records
from cid_ray.results.summary import METHOD_NAMES, RatioSummary, summarize
from cid_ray.search.controller import Search
from cid_ray.search.trial_spec import TrialSpec
from cid_ray.search.trial_states import FINISHED_STATES

MIN_REPEATS = 2  # one has no spread


class PoolAlarm(Callback):
    """Compares the repeats of a ratio on val when all candidates have one more; says each run
    once.
    """

    def __init__(self) -> None:
        self.said: set[str] = set()
        self.seen: dict[str, int] = {}  # ratio -> repeats of each candidate at the last look

    def on_search_start(self, search: Search) -> None:
        self.search = search

    def on_trial_complete(self, trial: TrialSpec, state: str) -> None:
        ratio, store = trial.key.ratio, self.search.store
        if not trial.key.repeats_of:
            return
        candidates = [key for key in store.repeat_keys() if key.ratio == ratio]
        finished = min(store.count(key, *FINISHED_STATES) for key in candidates)
        if finished < MIN_REPEATS or finished == self.seen.get(ratio):
            return
        self.seen[ratio] = finished
        search = self.search.config.search
        records = read_records(self.search.run_dir.local, warn=False)
        for summary in summarize(records, search.metric):
            if summary.ratio == ratio:
                for run, text in hurting_runs(summary, search.repeats.n).items():
                    if run not in self.said:
                        self.said.add(run)
                        self.search.log(f"warning: {text}", important=True)


def hurting_runs(summary: RatioSummary, planned: int) -> dict[str, str]:
    """run -> in words by how much it is below supervised only on val; of those beyond noise.

    Args:
        summary: of a search that may still run; what repeats have finished is compared.
        planned: repeats of each run; there is a look at two of them, at three and so on.
    """
    noise = summary.noise("val")
    methods = {run: summary.method_of(run) for run in noise.scores}
    supervised = next((run for run, method in methods.items() if method == "supervised"), None)
    if supervised is None:
        return {}
    others = [run for run in noise.scores if run != supervised]
    looks = planned - MIN_REPEATS + 1
    texts = {}
    for run, found in noise.compare(supervised, others).items():
        p = min(1.0, looks * found.adjusted_p)
        if found.difference > 0 and p < ALPHA:
            texts[run] = (
                f"{summary.name}: the pool is hurting so far: {METHOD_NAMES[methods[run]]} is "
                f"{found.difference:.2f} below supervised only on val after {noise.num_repeats} of "
                f"{planned} repeats of {run} ({format_p(p)}, corrected for {looks} "
                f"{'look' if looks == 1 else 'looks'})"
            )
    return texts
