"""What `search_families` compares: searches of hyperparameters at several label ratios, whose best
points may lie near each other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial
from scipy import stats

from benchmarks.contenders import GENTLE, TENTHS, Contender, Ours, Start, Stock
from cid_ray.config import Config
from cid_ray.results.records import Record
from cid_ray.search import order
from cid_ray.search.space import Space
from cid_ray.search.trial_spec import TrialSpec

MIN_RUNGS = 3  # a curve has two unknowns besides its noise
NOISE = 0.5  # mIoU: what is expected of the noise of a rung, with the weight of two rungs
STOP_BELOW = 0.05  # probability of beating the incumbent


class Apart:
    """A search for each ratio; the one with the fewest started trials is next."""

    def __init__(self, parts: Mapping[str, Contender]):
        self.parts = parts
        self.fractions = next(iter(parts.values())).fractions
        self.started = dict.fromkeys(parts, 0)

    def start(self) -> Start | None:
        ratio = min(self.started, key=lambda r: self.started[r])
        self.started[ratio] += 1
        trial = self.parts[ratio].start()
        return trial and ((ratio, trial[0]), *trial[1:])

    def report(self, handle: tuple[str, Any], rung: int, images: int, value: float) -> bool:
        ratio, own = handle
        return self.parts[ratio].report(own, rung, images, value)


class Exchanged(Ours):
    """Ours; the new best point of a ratio is the next one that the others try."""

    def report(self, handle: str, rung: int, images: int, value: float) -> bool:
        trial = self.queue.running[handle]
        best = self.store.best_value(trial.key)
        stop = super().report(handle, rung, images, value)
        if rung == len(self.fractions) and (best is None or value > best):
            for key in self.store.search_keys():
                if key != trial.key:
                    point = trial.trial.params
                    self.store.studies[key].enqueue_trial(point, skip_if_exists=True)
        return stop


class Pooled(Ours):
    """Ours with one sampler over all ratios. It sees all trials, each with its score standardised
    among the trials of its ratio.

    Optuna's samplers have no context: `PartialFixedSampler` takes a fixed parameter, such as the
    ratio, out of the model.
    """

    def __init__(self, base: Config, seed: int, sampler: Callable[[int], Any]):
        super().__init__(base, seed)
        self.samplers = (sampler(seed * 10_007 + number) for number in range(1_000_000))

    def start(self) -> Start | None:
        store = self.store
        search = store.config.search
        key = order.next_study(store.studies, store.n_started, store.n_trials, search)
        assert key is not None
        study = optuna.create_study(sampler=next(self.samplers), direction="maximize")
        for own in store.studies.values():
            study.add_trials(standardised(own.get_trials(deepcopy=False)))
        trial = study.ask()
        store.space.suggest(trial)
        store.studies[key].enqueue_trial(trial.params)
        return super().start()


def standardised(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Complete and pruned trials; the score at each rung in standard deviations from the mean."""
    finished = [t for t in trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    at_rung: dict[int, list[float]] = {}
    for trial in finished:
        for step, value in trial.intermediate_values.items():
            at_rung.setdefault(step, []).append(value)
    found = []
    for trial in finished:
        values = {
            step: float((value - np.mean(at_rung[step])) / (np.std(at_rung[step]) or 1.0))
            for step, value in trial.intermediate_values.items()
        }
        copy = create_trial(
            state=trial.state,
            value=values[max(values)] if trial.state == TrialState.COMPLETE else None,
            params=trial.params,
            distributions=trial.distributions,
            intermediate_values=values,
        )
        found.append(copy)
    return found


class Extrapolated(Ours):
    """Ours; ends a trial at a tenth of training whose extrapolated curve will hardly beat the
    best of its ratio, in place of halving.
    """

    def __init__(self, base: Config, seed: int):
        changes = {"train.rungs": TENTHS, "search.pruner": {"name": "NopPruner"}}
        super().__init__(base, seed, changes)

    def prunes(self, trial: TrialSpec, record: Record) -> bool:
        super().prunes(trial, record)
        best = self.store.best_value(trial.key)
        frozen = self.store.all_trials(trial.key)[trial.number]
        values = [value for _, value in sorted(frozen.intermediate_values.items())]
        if best is None or len(values) < MIN_RUNGS or len(values) == len(TENTHS):
            return False
        return chance_to_beat(best, TENTHS[: len(values)], values) < STOP_BELOW


class ExtrapolatedExchanged(Extrapolated, Exchanged):
    """Both."""


def curve_shapes(fractions: np.ndarray) -> np.ndarray:
    """f64[S, R]: power laws and Janoschek curves over training; 1 at the first rung and 0 at the
    end, so that a curve is `final + rise * shape`.
    """
    powers = [fractions**-c - 1 for c in (0.1, 0.25, 0.5, 1.0, 2.0)]
    janoschek = [
        np.exp(-k * fractions**d) - np.exp(-k)
        for k in (1.0, 2.0, 4.0, 8.0)
        for d in (0.7, 1.0, 1.5)
    ]
    shapes = np.array([*powers, *janoschek])
    return shapes / shapes[:, :1]


def chance_to_beat(best: float, fractions: Sequence[float], values: Sequence[float]) -> float:
    """The probability that a curve ends above `best`.

    A Bayesian mean over the shapes: each is a linear regression with unknown noise, whose forecast
    is Student's t, and has the weight of its marginal likelihood.
    """
    y = np.array(values)
    shapes = curve_shapes(np.array(fractions))
    freedom = 2 + len(y) - 2  # the prior of the noise counts as two rungs
    x = np.stack([np.ones_like(shapes), shapes], -1)  # f64[S, R, 2]
    inverse = np.linalg.inv(x.mT @ x)
    fitted = (inverse @ x.mT @ y[:, None])[..., 0]  # f64[S, 2]: final, rise
    errors = y - (x @ fitted[..., None])[..., 0]
    squares = 2 * NOISE**2 + (errors**2).sum(-1)
    scale = np.sqrt(squares / freedom * (1 + inverse[:, 0, 0]))
    weights = np.sqrt(np.linalg.det(inverse)) * squares ** (-freedom / 2)
    chances = stats.t.sf((best - fitted[:, 0]) / scale, freedom)
    return float(np.average(chances, weights=weights))


def gentle_pair(space: Space, ratios: Sequence[str], seed: int) -> Apart:
    """Ray's OptunaSearch + ASHAScheduler for each ratio."""
    parts = {
        ratio: Stock(space, ratio, seed + 1000 * k, **GENTLE) for k, ratio in enumerate(ratios)
    }
    return Apart(parts)


def warm_started(base: Config, seed: int, trials: int) -> Ours:
    return Ours(base, seed, {"search.warm_start_ratios": True, "search.trials": trials})


def tpe(base: Config, seed: int) -> optuna.samplers.TPESampler:
    return optuna.samplers.TPESampler(seed=seed, **base.search.sampler.args)


def gp(seed: int) -> optuna.samplers.GPSampler:
    return optuna.samplers.GPSampler(seed=seed)


def family_contenders(base: Config) -> dict[str, Callable[[int], Contender]]:
    """Name -> makes a contender from a seed. `base` has the ratios, fewest labels first."""
    space = Space.parse(base.search.space)
    gp_alone = {"search.sampler": {"name": "GPSampler", "args": {}}}
    return {
        "stock, grace period 2, factor 2": partial(gentle_pair, space, base.search.ratios),
        "ours, each ratio alone": partial(Ours, base),
        "ours, each ratio alone, 20 trials": partial(Ours, base, changes={"search.trials": 20}),
        "ours, warm_start_ratios, 10 trials": partial(warm_started, base, trials=10),
        "ours, warm_start_ratios, 20 trials": partial(warm_started, base, trials=20),
        "ours, best points exchanged": partial(Exchanged, base),
        "ours, one TPE for all ratios": partial(Pooled, base, sampler=partial(tpe, base)),
        "ours, extrapolation": partial(Extrapolated, base),
        "ours, extrapolation, exchanged": partial(ExtrapolatedExchanged, base),
        "ours, GP, each ratio alone": partial(Ours, base, changes=gp_alone),
        "ours, one GP for all ratios": partial(Pooled, base, sampler=gp),
    }
