"""The sections `search`, `study` and `prices`: what `tune` searches, where Optuna stores the
studies, and what a report weighs.

None of these keys changes the result of a single run, so none is part of the fingerprint.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from cid_ray.config.section import Section
from cid_ray.config.validators import check_database_url, parse_label_ratios

Baseline = Literal["supervised", "pool_bn", "mean_teacher", "unimatch_v2", "self_training"]
Method = Literal["supervised", "pool_bn", "mean_teacher", "unimatch_v2", "self_training", "cid"]


class PluginConfig(Section):
    """An Optuna class and its arguments, e.g. `{name: TPESampler, args: {multivariate: true}}`."""

    # Name of a class in optuna.samplers or optuna.pruners.
    name: str
    # Keyword arguments of its constructor.
    args: dict[str, Any] = Field(default_factory=dict)


class RepeatsConfig(Section):
    """Re-runs of each ratio's baselines and best CID trials with fresh seeds: the noise floor."""

    # Seeds with which every candidate is repeated, the same for all of them; 0: no repeats.
    n: int = Field(0, ge=0)
    # Best CID trials per ratio that are repeated.
    top: int = Field(1, ge=1)
    # Whether each seed also gets its own label draw: the spread then contains the choice of labels.
    fresh_draws: bool = True

    @field_validator("n")
    @classmethod
    def _n(cls, value: int) -> int:
        if value == 1:
            raise ValueError("must be 0 (off) or at least 2: one repeat has no spread")
        return value


class SearchConfig(Section):
    # Label ratios that are searched, each in studies of its own, in the forms of data.ratio.
    ratios: tuple[str, ...] = ("1/16", "1/8")
    # Further ratios with supervised only: its label curve says how many labels the pool is worth.
    supervised_ratios: tuple[str, ...] = ()
    # CID trials per ratio.
    trials: int = Field(20, ge=1)
    # Methods that CID is compared with.
    baselines: tuple[Baseline, ...] = ("supervised", "pool_bn", "mean_teacher")
    # Trials per ratio and baseline, over the hyperparameters of `space` that it uses; same: as CID.
    baseline_trials: int | Literal["same"] = "same"
    # Dotted key -> distribution, e.g. {loss.conf_thresh: {float: [0.5, 1]}}; see search/space.py.
    space: dict[str, Any] = Field(default_factory=dict)
    # Hyperparameters that are tried before the sampler suggests any.
    points_to_evaluate: tuple[dict[str, Any], ...] = ()
    # Score that is maximized, in percent mIoU: of the EMA teacher or of the student.
    metric: Literal["val/miou_teacher", "val/miou"] = "val/miou_teacher"
    # A second score, minimized: the report then has a Pareto table. null: none.
    second_objective: Literal["seconds", "latency_ms"] | None = None
    # Search the ratios one after the other, each starting from the previous ratio's best trials.
    warm_start_ratios: bool = False
    repeats: RepeatsConfig = RepeatsConfig()
    # constant_liar keeps concurrent trials apart; group models conditional hyperparameters.
    sampler: PluginConfig = PluginConfig(
        name="TPESampler", args={"multivariate": True, "group": True, "constant_liar": True}
    )
    pruner: PluginConfig = PluginConfig(
        name="SuccessiveHalvingPruner", args={"reduction_factor": 2}
    )
    # Seed of the sampler.
    seed: int = Field(0, ge=0)
    # How often a trial is resumed from its checkpoint after its process died; then it has failed.
    retries: int = Field(2, ge=0)
    # How often a trial is resumed after its node was taken (a spot machine), besides its retries.
    max_preemption_failures: int = Field(100, ge=0)
    # Trials that failed with the same reason, after which the search stops.
    max_failed_trials: int = Field(5, ge=1)
    # Trials that run concurrently; null: as many as the cluster has room for.
    max_concurrent_trials: int | None = Field(None, ge=1)
    # CPUs of a single-process trial.
    cpus_per_trial: float = Field(1, gt=0)
    # GPUs of a single-process trial; 0.5: two trials share one. null: 1 where there are GPUs.
    gpus_per_trial: float | None = Field(None, ge=0)
    # Experiment loggers: name -> arguments, e.g. {tensorboard: {}}; see callbacks/setup.py.
    callbacks: dict[str, dict[str, Any]] = Field(default_factory=dict)

    @field_validator("baseline_trials", mode="before")
    @classmethod
    def _baseline_trials(cls, value: Any) -> int | str:
        if value == "same" or (type(value) is int and value >= 1):
            return value
        raise ValueError('must be a number of trials from 1, or "same": as many as CID')

    @property
    def tries_per_baseline(self) -> int:
        return self.trials if self.baseline_trials == "same" else self.baseline_trials

    @property
    def all_ratios(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys([*self.ratios, *self.supervised_ratios]))

    @field_validator("supervised_ratios", mode="before")
    @classmethod
    def _supervised_ratios(cls, value: Any) -> tuple[str, ...]:
        return parse_label_ratios(value)

    @field_validator("ratios", mode="before")
    @classmethod
    def _ratios(cls, value: Any) -> tuple[str, ...]:
        ratios = parse_label_ratios(value)
        if not ratios or len(set(ratios)) != len(ratios):
            raise ValueError("must name at least one ratio, each once")
        return ratios


class StudyConfig(Section):
    """Where Optuna stores the studies: in the run folder, or in a database shared by machines."""

    # postgresql+psycopg://host/database; null: the run folder's study.journal.
    storage: str | None = None
    # Searches with the same name in one database share their studies; null: the run folder's name.
    name: str | None = None

    @field_validator("storage")
    @classmethod
    def _storage(cls, value: str | None) -> str | None:
        return value and check_database_url(value)


class PricesConfig(Section):
    """What a report weighs against each other, in US dollars. It changes no result."""

    # One more labeled image.
    label: float | None = Field(None, gt=0)
    # An hour of what one trial runs on.
    hour: float | None = Field(None, gt=0)
    # Missing the target of `report --target`: what that would cost.
    miss: float | None = Field(None, gt=0)
    # A machine of cluster/prices.yaml: an hour costs the trial's part of it.
    machine: str | None = None

    @model_validator(mode="after")
    def _one_price(self) -> Self:
        if self.hour is not None and self.machine is not None:
            raise ValueError("hour and machine both give the price of an hour: set one of them")
        return self
