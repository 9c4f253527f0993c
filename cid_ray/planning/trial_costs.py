"""What trials cost, from the records of a run: seconds to every rung, where pruned, how often lost.

A record's `seconds` at a rung are read before val is scored there. The final record's are read
after it, so their difference is one scoring of val with its checkpoint. A plan draws whole recorded
trials with replacement (bootstrap), of the same method and, where there are any, the same ratio.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from statistics import median

from cid_ray.config import Config, InputError
from cid_ray.results.records import Record, of_event


@dataclass(frozen=True)
class TrialCost:
    """One recorded trial.

    Attributes:
        ends: seconds after its start at which each rung that it reached is over: steps, scoring of
            val, checkpoint.
        complete: it reached the last rung; else it was pruned or failed at its last one.
    """

    ends: tuple[float, ...]
    complete: bool


@dataclass(frozen=True)
class TrialCosts:
    """The recorded trials of a run, to draw from.

    Attributes:
        trials: (ratio, method, repeated) -> its trials.
        test_s: seconds to score one run on test; None: the run never did.
        deaths_per_hour: processes of trials that died per hour of trials.
        run: the run folder, for messages.
        recorded_steps: optimizer steps of the recorded trials.
    """

    trials: dict[tuple[str, str, bool], list[TrialCost]]
    test_s: float | None
    deaths_per_hour: float
    run: str
    recorded_steps: int

    def draw(self, ratio: str, method: str, repeated: bool, rng: Random) -> TrialCost:
        """One recorded trial; for a repeat one that was trained to its end.

        Raises:
            InputError: the run has none of this method.
        """
        if repeated:
            found = self.trials.get((ratio, method, True)) or [
                cost for cost in self._of(ratio, method) if cost.complete
            ]
        else:
            found = self._of(ratio, method)
        found = found or [cost for cost in self._of(None, method) if cost.complete or not repeated]
        if not found:
            kind = "completed trial" if repeated else "trial"
            raise InputError(
                f"{self.run} has no {kind} of {method}, so what one takes is unknown; run a search "
                f"with it first (search.baselines, or search.trials for cid)"
            )
        return rng.choice(found)

    def _of(self, ratio: str | None, method: str) -> list[TrialCost]:
        """The trials of a method's searches at one ratio, or at all of them."""
        return [
            cost
            for (own, name, repeated), costs in self.trials.items()
            if name == method and not repeated and ratio in (None, own)
            for cost in costs
        ]

    def by_method(self) -> list[Record]:
        """For every method its recorded trials, as in `plan` records."""
        methods = sorted({method for _, method, _ in self.trials})
        return [method_cost(method, self._of(None, method)) for method in methods]

    def scaled(self, factor: float) -> TrialCosts:
        """All seconds times a factor."""
        trials = {
            key: [replace(cost, ends=tuple(factor * end for end in cost.ends)) for cost in costs]
            for key, costs in self.trials.items()
        }
        test_s = None if self.test_s is None else factor * self.test_s
        return replace(
            self, trials=trials, test_s=test_s, deaths_per_hour=self.deaths_per_hour / factor
        )


def method_cost(method: str, costs: list[TrialCost]) -> Record:
    """Trials, median seconds to the end, and the share that ended early at each rung."""
    shares = []
    for rung in range(1, max((len(cost.ends) for cost in costs), default=0) + 1):
        reached = [cost for cost in costs if len(cost.ends) >= rung]
        ended = [cost for cost in reached if len(cost.ends) == rung and not cost.complete]
        shares.append(round(len(ended) / len(reached), 4))
    complete = [cost.ends[-1] for cost in costs if cost.complete]
    seconds = round(median(complete), 3) if complete else None
    return {"method": method, "trials": len(costs), "seconds": seconds, "ended_early": shares}


def read_trial_costs(records: list[Record], config: Config, run: str) -> TrialCosts:
    """The costs of the trials in a run's records, for trials of another search.

    Args:
        records: of a search, finished or not; trials that have not ended are left out.
        config: of the search to plan. Its `train.steps` may differ: steps are scaled, scoring is
            not.
        run: the run folder, for messages.

    Raises:
        InputError: no trial has ended, or rungs lie at other fractions.
    """
    rungs: dict[str, list[Record]] = {}
    for record in of_event(records, "rung"):
        rungs.setdefault(record["run"], []).append(record)
    finals = {record["run"]: record for record in of_event(records, "final")}
    states = {record["run"]: record["state"] for record in of_event(records, "trial")}
    score_s = _scoring_seconds(rungs, finals)
    trials: dict[tuple[str, str, bool], list[TrialCost]] = {}
    steps = 0
    for name, own in rungs.items():
        if name not in states and name not in finals:
            continue  # it still runs, or was stopped
        own = sorted(own, key=lambda record: record["step"])
        final = finals.get(name)
        _check_rungs(own, config, run)
        steps = own[0]["steps"]
        score = score_s.get(name, median(score_s.values()) if score_s else 0.0)
        ends = _ends([record["seconds"] for record in own], score, config.train.steps / steps)
        complete = final is not None and states.get(name, "complete") == "complete"
        key = own[0]["ratio"], own[0]["method"], bool(own[0]["repeats_of"])
        trials.setdefault(key, []).append(TrialCost(ends, complete))
    if not trials:
        raise InputError(
            f"{run} has no trial that has ended, so what one takes is unknown; let it finish some"
        )
    tests = [r["test_seconds"] for r in finals.values() if "test_seconds" in r]
    hours = sum(cost.ends[-1] for costs in trials.values() for cost in costs) / 3600
    deaths = len(of_event(records, "retry")) / hours if hours else 0.0
    return TrialCosts(trials, median(tests) if tests else None, deaths, run, steps)


def _scoring_seconds(rungs: dict[str, list[Record]], finals: dict[str, Record]) -> dict[str, float]:
    """Run -> seconds of one scoring of val with its checkpoint, of runs trained to their end."""
    found = {}
    for name, final in finals.items():
        last = max(rungs.get(name, []), key=lambda record: record["step"], default=None)
        if last is not None and last["step"] == final["step"]:
            found[name] = max(0.0, final["seconds"] - last["seconds"])
    return found


def _ends(seconds: list[float], score_s: float, factor: float) -> tuple[float, ...]:
    """When each rung is over: the steps until it, times `factor`, and the scorings until then."""
    return tuple(
        factor * max(0.0, second - index * score_s) + (index + 1) * score_s
        for index, second in enumerate(seconds)
    )


def _check_rungs(own: list[Record], config: Config, run: str) -> None:
    """Raise InputError when a trial's rungs lie at other fractions of training than the plan's."""
    steps = own[0]["steps"]
    expected = config.train.rung_steps
    for record, step in zip(own, expected, strict=False):
        # A rung is at a whole step, so the fractions of short runs differ a little.
        tolerance = 1 / min(steps, config.train.steps) + 1e-9
        if abs(record["step"] / steps - step / config.train.steps) > tolerance:
            break
    else:
        if len(own) <= len(expected):
            return
    shown = ", ".join(f"{record['step'] / steps:.3g}" for record in own)
    raise InputError(
        f"{run}: its trial {own[0]['run']} has rungs at {shown} of its training; the search space "
        f"has train.rungs={list(config.train.rungs)}: pruning cannot be compared. Plan with "
        "--set train.rungs=... as in the run, or run the space itself with few trials"
    )
