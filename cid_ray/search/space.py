"""`search.space` of a YAML file -> Optuna distributions, with conditions; every error before Ray starts.

loss.relation_weight:      {float: [0.01, 3.0], log: true}
data.batch_size:           {int: [4, 16], step: 4}
loss.relation_kind:        {choice: [self, cross, transfer, class]}
loss.relation_temperature: {float: [0.05, 1.0], log: true, when: {loss.relation_kind: [cross, class]}}
loss.style_target:         unlabeled          # a plain value is fixed for every trial
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from cid_ray.config import InputError, known_keys, override

DRAWS = 64  # points of the space that must make a valid config before anything starts
SHAPES = ("float", "int", "choice")
NOT_COMPARABLE = (  # between trials of one study; a seed that scores best is luck
    "data.ratio", "data.table", "data.draw", "data.split_seed", "data.split_files", "data.label_from",
    "data.val_from_budget", "train.steps", "train.rungs", "train.seed",
)  # fmt: skip
_CID = ("loss.relation_", "loss.style_", "loss.stats_decay")
_PSEUDO = ("loss.pseudo", "loss.conf_thresh", "loss.temperature")
NOT_OF: dict[str, tuple[str, ...]] = {  # settings that a method never reads, by how they begin
    "supervised": (*_CID, *_PSEUDO, "data.batch_size_u"),
    "pool_bn": (*_CID, *_PSEUDO),
    "mean_teacher": _CID,
    "cid": (),
}


@dataclass(frozen=True)
class Parameter:
    """One searched key; `when` maps other searched keys to the values under which it exists."""

    key: str
    distribution: BaseDistribution
    when: Mapping[str, tuple[Any, ...]]

    def active(self, chosen: Mapping[str, Any]) -> bool:
        return all(chosen.get(key) in values for key, values in self.when.items())


@dataclass(frozen=True)
class Space:
    parameters: tuple[Parameter, ...]
    fixed: Mapping[str, Any]

    @classmethod
    def parse(cls, entries: Mapping[str, Any], start: tuple[Mapping[str, Any], ...] = ()) -> Space:
        parameters: list[Parameter] = []
        fixed: dict[str, Any] = {}
        for key, entry in entries.items():
            _known(key)
            if not isinstance(entry, Mapping):
                fixed[key] = entry
                continue
            parameters.append(_parameter(key, entry, [p.key for p in parameters]))
        space = cls(tuple(parameters), fixed)
        for point in start:
            space.check_point(point)
        return space

    def of_method(self, method: str) -> Space:
        """The part of the space that changes a method: a baseline is tuned on its own settings alone."""
        return Space(tuple(p for p in self.parameters if not p.key.startswith(NOT_OF[method])), self.fixed)

    def suggest(self, trial: optuna.trial.BaseTrial) -> dict[str, Any]:
        """The settings of one trial: define-by-run, so a conditional key is only drawn where it exists."""
        chosen: dict[str, Any] = {}
        for parameter in self.parameters:
            if parameter.active(chosen):
                chosen[parameter.key] = _draw(trial, parameter)
        return {**self.fixed, **chosen}

    def check_point(self, point: Mapping[str, Any]) -> None:
        by_key = {p.key: p for p in self.parameters}
        for key, value in point.items():
            if key not in by_key:
                raise InputError(f"search.start sets `{key}`, which search.space does not search{_near(key, by_key)}")
            distribution = by_key[key].distribution
            try:
                inside = distribution._contains(distribution.to_internal_repr(value))
            except (ValueError, TypeError):
                inside = False
            if not inside:
                raise InputError(f"search.start has `{key}` = {value!r}, which lies outside {_words(distribution)}")

    def check(self, base: Mapping[str, Any], seed: int = 0) -> None:
        """Draw points and build the full config of each: what cannot be run is known before Ray starts."""
        verbosity = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
        try:
            for _ in range(DRAWS if self.parameters else 1):
                point = self.suggest(study.ask())
                try:
                    override(base, point)
                except InputError as error:
                    raise InputError(
                        f"search.space allows a point that is no valid config: {error} (point {point})"
                    ) from None
        finally:
            optuna.logging.set_verbosity(verbosity)


def _known(key: str) -> None:
    keys = [k for k in known_keys() if "." in k and not k.startswith(("search.", "scale."))]
    if key not in keys and not key.startswith("model.decoder_options."):
        raise InputError(f"search.space has `{key}`, which is no setting{_near(key, keys)}")
    if key in NOT_COMPARABLE:
        raise InputError(f"search.space must not search `{key}`: scores of its values cannot be compared in one study")


def _near(key: str, keys: Any) -> str:
    near = difflib.get_close_matches(key, list(keys), n=1, cutoff=0.5)
    return f"; did you mean `{near[0]}`?" if near else ""


def _parameter(key: str, entry: Mapping[str, Any], earlier: list[str]) -> Parameter:
    shapes = [name for name in SHAPES if name in entry]
    unknown = set(entry) - {*SHAPES, "log", "step", "when"}
    if len(shapes) != 1 or unknown:
        raise InputError(
            f"search.space `{key}` is {dict(entry)!r}, must have exactly one of float: [low, high], int: [low, high], "
            f"choice: [...], and may have log, step, when"
        )
    when = {}
    for parent, values in (entry.get("when") or {}).items():
        if parent not in earlier:
            raise InputError(
                f"search.space `{key}` depends on `{parent}`, which must be searched and stand above it"
                f"{_near(parent, earlier)}"
            )
        when[parent] = tuple(values) if isinstance(values, list | tuple) else (values,)
    return Parameter(key, _distribution(key, shapes[0], entry), when)


def _distribution(key: str, shape: str, entry: Mapping[str, Any]) -> BaseDistribution:
    values, log, step = entry[shape], bool(entry.get("log", False)), entry.get("step")
    try:
        if shape == "choice":
            if not values or not all(isinstance(v, None | bool | int | float | str) for v in values):
                raise ValueError("choice takes plain values (numbers, strings, true/false, null)")
            return CategoricalDistribution(tuple(values))
        low, high = values
        if shape == "int":
            return IntDistribution(int(low), int(high), log=log, step=1 if step is None else int(step))
        return FloatDistribution(float(low), float(high), log=log, step=None if step is None else float(step))
    except (ValueError, TypeError) as error:
        raise InputError(f"search.space `{key}` is {dict(entry)!r}: {error}") from None


def _draw(trial: optuna.trial.BaseTrial, parameter: Parameter) -> Any:
    key, dist = parameter.key, parameter.distribution
    if isinstance(dist, CategoricalDistribution):
        return trial.suggest_categorical(key, dist.choices)
    if isinstance(dist, IntDistribution):
        return trial.suggest_int(key, dist.low, dist.high, step=dist.step, log=dist.log)
    assert isinstance(dist, FloatDistribution)
    return trial.suggest_float(key, dist.low, dist.high, step=dist.step, log=dist.log)


def _words(dist: BaseDistribution) -> str:
    if isinstance(dist, CategoricalDistribution):
        return f"{list(dist.choices)}"
    return f"[{dist.low}, {dist.high}]"  # type: ignore[attr-defined]


def plugin(module: Any, name: str, args: Mapping[str, Any], suffix: str, **defaults: Any) -> Any:
    """An Optuna sampler or pruner by its class name; arguments that it does not know are an InputError."""
    import inspect

    names = [n for n in dir(module) if n.endswith(suffix) and not n.startswith("Base")]
    if name not in names:
        raise InputError(
            f"search.{suffix.lower()}.name is {name!r}, must be one of {', '.join(names)}{_near(name, names)}"
        )
    cls = getattr(module, name)
    known = inspect.signature(cls).parameters
    for key in args:
        if key not in known:
            raise InputError(
                f"search.{suffix.lower()}.args has {key!r}; {name} takes {', '.join(known)}{_near(key, known)}"
            )
    try:
        return cls(**{**{k: v for k, v in defaults.items() if k in known}, **args})
    except Exception as error:
        raise InputError(f"search.{suffix.lower()}: {name}({dict(args)}): {error}") from None
