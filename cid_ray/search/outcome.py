"""How a search ended: its exit code and the lines that say what to do next."""

from __future__ import annotations

from optuna.trial import TrialState

from cid_ray.search.controller import Search

# Exit codes, as in cli/parser.py.
DONE = 0
FAILED = 1
INTERRUPTED = 130


def search_outcome(search: Search, elapsed: float) -> tuple[int, list[str]]:
    """The exit code and the lines.

    Args:
        search: finalized.
        elapsed: seconds since the command started.
    """
    resume = f"python -m cid_ray.tune --resume {search.run_dir}"
    if search.rules.reason:
        return FAILED, [
            f"stopped: {search.rules.reason}. When that is mended, resume with: {resume}"
        ]
    states = list(search.store.finished().values())
    total = search.store.total_trials()
    lines = [f"{len(states)} of {total} trials finished in {elapsed:.0f} s"]
    if search.rules.interrupted:
        return INTERRUPTED, [*lines, f"resume with: {resume}"]
    if search.not_scored:
        return FAILED, [
            *lines,
            f"{len(search.not_scored)} not scored on test; again with: {resume}",
        ]
    if states and all(state == TrialState.FAIL for state in states):
        lines.append(f"every trial failed; the reasons are in {search.run_dir}/records.jsonl")
        return FAILED, lines
    if remote := search.store.n_remote():
        lines.append(
            f"{remote} trials still run on other machines; when they have finished, report on all "
            f"with: {resume}"
        )
    elif len(states) < total:
        lines.append(f"the time budget is spent; resume with: {resume}")
    return DONE, lines
