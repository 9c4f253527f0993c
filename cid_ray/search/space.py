"""`search.space` of a YAML file -> Optuna distributions, with conditions.

    loss.relation_weight:      {float: [0.01, 3.0], log: true}
    data.batch_size:           {int: [4, 16], step: 4}
    loss.relation_kind:        {choice: [self, cross, transfer, class]}
    loss.relation_temperature: {float: [0.05, 1.0], log: true, when: {loss.relation_kind: [cross,
    class]}} loss.style_target:         unlabeled          # a plain value is fixed for every trial

Every mistake is an InputError before Ray starts: points of the space are sampled and built as full
configurations.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from cid_ray.config import InputError, build_config, known_keys
from cid_ray.search import _optuna_compat

CHECKED_POINTS = 64  # sampled points that must each make a valid configuration
KINDS = ("float", "int", "choice")

# Trials of one study must be comparable, and a seed that scores best is luck.
NOT_SEARCHABLE = (
    "data.ratio",
    "data.table",
    "data.draw",
    "data.split_seed",
    "data.split_files",
    "data.label_from",
    "data.val_from_budget",
    "train.steps",
    "train.rungs",
    "train.seed",
)
_CID = ("loss.base", "loss.relation_", "loss.style_", "loss.labeled_memory")
_PSEUDO_LABELS = (
    "loss.pseudo",
    "loss.conf_thresh",
    "loss.threshold",
    "loss.align_distribution",
    "loss.temperature",
    "loss.stats_span",
)
_ROUNDS = ("loss.first_round",)
UNUSED_BY_METHOD: dict[str, tuple[str, ...]] = {  # prefixes of keys that a method never reads
    "supervised": (*_CID, *_PSEUDO_LABELS, *_ROUNDS, "data.batch_size_u"),
    "pool_bn": (*_CID, *_PSEUDO_LABELS, *_ROUNDS),
    "mean_teacher": (*_CID, *_ROUNDS),
    "unimatch_v2": (*_CID, *_ROUNDS),
    "self_training": (*_CID, "loss.pseudo_burn_in", "loss.pseudo_ramp"),
    "cid": _ROUNDS,
}


@dataclass(frozen=True)
class Parameter:
    """One searched key; `when` maps other searched keys to the values under which it exists."""

    key: str
    distribution: BaseDistribution
    when: Mapping[str, tuple[Any, ...]]

    @property
    def is_log(self) -> bool:
        return bool(getattr(self.distribution, "log", False))

    def is_active(self, chosen: Mapping[str, Any]) -> bool:
        return all(chosen.get(key) in values for key, values in self.when.items())

    def suggest(self, trial: optuna.trial.BaseTrial) -> Any:
        dist = self.distribution
        if isinstance(dist, CategoricalDistribution):
            return trial.suggest_categorical(self.key, dist.choices)
        if isinstance(dist, IntDistribution):
            return trial.suggest_int(self.key, dist.low, dist.high, step=dist.step, log=dist.log)
        assert isinstance(dist, FloatDistribution)
        return trial.suggest_float(self.key, dist.low, dist.high, step=dist.step, log=dist.log)


@dataclass(frozen=True)
class Space:
    """The searched parameters in the order of the file, and the values that are fixed for every
    trial.
    """

    parameters: tuple[Parameter, ...]
    fixed: Mapping[str, Any]

    @classmethod
    def parse(cls, entries: Mapping[str, Any], points: Iterable[Mapping[str, Any]] = ()) -> Space:
        """The space of `search.space`; `points` are those of `search.points_to_evaluate`.

        Raises:
            InputError: an unknown key, a malformed entry, a point outside the space.
        """
        parameters: list[Parameter] = []
        fixed: dict[str, Any] = {}
        for key, entry in entries.items():
            _check_searchable(key)
            if isinstance(entry, Mapping):
                parameters.append(_parse_parameter(key, entry, [p.key for p in parameters]))
            else:
                fixed[key] = entry
        space = cls(tuple(parameters), fixed)
        for point in points:
            space.check_point(point)
        return space

    def of_method(self, method: str) -> Space:
        """The part of the space that a method reads: a baseline is tuned on its own
        hyperparameters.
        """
        unused = UNUSED_BY_METHOD[method]
        return Space(tuple(p for p in self.parameters if not p.key.startswith(unused)), self.fixed)

    def suggest(self, trial: optuna.trial.BaseTrial) -> dict[str, Any]:
        """The hyperparameters of one trial, define-by-run: a conditional key exists only where it
        is active.
        """
        chosen: dict[str, Any] = {}
        for parameter in self.parameters:
            if parameter.is_active(chosen):
                chosen[parameter.key] = parameter.suggest(trial)
        return {**self.fixed, **chosen}

    def check_point(self, point: Mapping[str, Any]) -> None:
        """InputError when a point has a key or a value that the space does not search."""
        by_key = {p.key: p for p in self.parameters}
        for key, value in point.items():
            if key not in by_key:
                raise InputError(
                    f"search.points_to_evaluate sets `{key}`, which search.space does not "
                    f"search{nearest(key, by_key)}"
                )
            distribution = by_key[key].distribution
            if not _optuna_compat.contains(distribution, value):
                raise InputError(
                    f"search.points_to_evaluate has `{key}` = {value!r}, which is outside "
                    f"{_range_text(distribution)}"
                )

    def check(self, base: Mapping[str, Any], seed: int = 0) -> None:
        """Sample points and build the full configuration of each; InputError for one that cannot be
        run.
        """
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
        for _ in range(CHECKED_POINTS if self.parameters else 1):
            point = self.suggest(study.ask())
            try:
                build_config(base, point)
            except InputError as error:
                raise InputError(
                    f"search.space allows a point that is no valid config: {error} (point {point})"
                ) from None


def nearest(key: str, keys: Iterable[str]) -> str:
    """ "; did you mean `...`?" for the known key that is most like an unknown one, else empty."""
    near = difflib.get_close_matches(key, list(keys), n=1, cutoff=0.5)
    return f"; did you mean `{near[0]}`?" if near else ""


def _check_searchable(key: str) -> None:
    sections = [k for k in known_keys() if "." in k]
    keys = [k for k in sections if not k.startswith(("search.", "distributed."))]
    if key not in keys and not key.startswith("model.decoder_options."):
        raise InputError(
            f"search.space has `{key}`, which is no configuration key{nearest(key, keys)}"
        )
    if key in NOT_SEARCHABLE:
        raise InputError(
            f"search.space must not search `{key}`: scores of its values cannot be compared in one "
            "study"
        )


def _parse_parameter(key: str, entry: Mapping[str, Any], earlier: list[str]) -> Parameter:
    kinds = [kind for kind in KINDS if kind in entry]
    unknown = set(entry) - {*KINDS, "log", "step", "when"}
    if len(kinds) != 1 or unknown:
        raise InputError(
            f"search.space `{key}` is {dict(entry)!r}, must have exactly one of float: [low, "
            "high], "
            "int: [low, high], choice: [...], and may have log, step, when"
        )
    when = {}
    for parent, values in (entry.get("when") or {}).items():
        # Optuna suggests in the order of the file, so a condition can only look at what came
        # before.
        if parent not in earlier:
            raise InputError(
                f"search.space `{key}` depends on `{parent}`, which must be searched and come "
                "before it"
                f"{nearest(parent, earlier)}"
            )
        when[parent] = tuple(values) if isinstance(values, list | tuple) else (values,)
    return Parameter(key, _parse_distribution(key, kinds[0], entry), when)


def _parse_distribution(key: str, kind: str, entry: Mapping[str, Any]) -> BaseDistribution:
    values = entry[kind]
    log = bool(entry.get("log", False))
    step = entry.get("step")
    try:
        if kind == "choice":
            if not values or not all(
                isinstance(v, None | bool | int | float | str) for v in values
            ):
                raise ValueError("choice takes plain values (numbers, strings, true/false, null)")
            return CategoricalDistribution(tuple(values))
        low, high = values
        if kind == "int":
            step = 1 if step is None else int(step)
            return IntDistribution(int(low), int(high), log=log, step=step)
        step = None if step is None else float(step)
        return FloatDistribution(float(low), float(high), log=log, step=step)
    except (ValueError, TypeError) as error:
        raise InputError(f"search.space `{key}` is {dict(entry)!r}: {error}") from None


def _range_text(dist: BaseDistribution) -> str:
    if isinstance(dist, CategoricalDistribution):
        return f"{list(dist.choices)}"
    assert isinstance(dist, IntDistribution | FloatDistribution)
    return f"[{dist.low}, {dist.high}]"
