"""One Optuna study per label ratio and method, in one journal: the single truth for suggestions AND pruning.

Ray forgets its scheduler's rungs on restore and tells Optuna that a pruned trial is COMPLETE. So a study is asked,
told and pruned here, with `images_seen` as the resource, and everything is rebuilt from the journal after a kill:
trials that were RUNNING are handed out again first and go on from their own last checkpoints. A trial whose process
dies comes back in the same way, `search.retries` times.

Baselines come first; then the CID arm with the fewest trials is next, so all ratios advance together (or, with
`search.carry_over`, ratio by ratio, fewest labels first, each begun from the best settings of the one before); a ratio
whose trials have all ended is confirmed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from cid_ray import places
from cid_ray.config import Config, label_share
from cid_ray.home import Home
from cid_ray.results.record import Row
from cid_ray.search import decide, shared, silence
from cid_ray.search.arms import DIRECTIONS, Arm, Assignment, make_pruner, make_sampler, trial_config, wanted
from cid_ray.search.journal import JOURNAL, identity, open_journal, same_search
from cid_ray.search.space import Space

NO_VALUE = "val has no ground truth"
ENDED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
HOW = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}  # in words


@dataclass
class Studies:
    home: Home
    config: Config
    space: Space
    contents: Mapping[str, str] = field(default_factory=dict)  # hashes of data and weights: part of its identity
    pending: list[tuple[Arm, int]] = field(default_factory=list)  # interrupted trials, by storage id
    live: dict[str, Assignment] = field(default_factory=dict)
    studies: dict[Arm, optuna.Study] = field(default_factory=dict)
    silent: int = silence.SILENT_SECONDS  # the same on all machines of a shared study

    def __post_init__(self) -> None:
        url, folder = self.config.study.storage, self.home.here
        self.shared = bool(url)
        self.storage: Any = shared.open_shared(url, self.silent) if url else open_journal(folder / JOURNAL)
        self.vigil = silence.Vigil(self)
        self.prefix = f"{self.config.study.name or self.home.own_name}: " if url else ""
        self.owner, self.fresh = shared.owner_of(folder) if url else ("", True)
        self.home.send()  # the id, before a trial bears it
        if self.shared:  # its arms may not all be the same
            self.check(optuna.create_study(storage=self.storage, study_name=self.prefix[:-2], load_if_exists=True))
        for method in (*self.config.search.baselines, "cid"):
            for ratio in self.config.search.ratios:
                self.open_arm(Arm(ratio, method))
        self.confirm()

    def open_arm(self, arm: Arm) -> None:
        """Create or load an arm's study; its interrupted trials are next."""
        search, many = self.config.search, self.wanted(arm) > 1
        study = optuna.create_study(
            storage=self.storage,
            study_name=self.prefix + arm.study_name,
            directions=DIRECTIONS[bool(search.cost)],
            pruner=make_pruner(self.config, arm.method) if many and not arm.confirms else optuna.pruners.NopPruner(),
            load_if_exists=True,
        )
        if not self.studies and not self.shared:
            self.check(study)
        self.studies[arm] = study
        if not arm.confirms and many:
            own = {p.key for p in self.space.of_method(arm.method).parameters}
            for point in search.start:
                study.enqueue_trial({k: v for k, v in point.items() if k in own}, skip_if_exists=True)
        self.pending += [(arm, t._trial_id) for t in self.trials(arm, TrialState.RUNNING) if self.is_mine(t)]
        self.vigil.beat()

    def check(self, study: optuna.Study) -> None:
        new = f"--warm-start {self.home} starts from its best settings"
        if self.shared:
            new = "with another study.name"
        same_search(study, identity(self.config, self.contents), self.prefix[:-2] or str(self.home), new)

    def trials(self, arm: Arm, *states: TrialState) -> list[FrozenTrial]:
        """Those that count, in these states or in all."""
        if not self.shared:
            return self.studies[arm].get_trials(deepcopy=False, states=states or None)
        return [t for t in silence.counted(self.every_trial(arm)) if not states or t.state in states]

    def every_trial(self, arm: Arm) -> list[FrozenTrial]:
        return self.studies[arm].get_trials(deepcopy=False)

    def is_mine(self, trial: FrozenTrial) -> bool:
        """Of a shared study: taken by this run's folder, or by nobody because a kill came in between."""
        owner = trial.user_attrs.get(shared.OWNER)
        return not self.shared or owner == self.owner or (owner is None and not self.fresh)

    def elsewhere(self) -> int:
        """How many trials other machines run now, or have lost just now."""
        every = [self.every_trial(arm) for arm in self.studies] if self.shared else []
        return sum(
            len(silence.unfollowed(trials))
            + sum(t.state == TrialState.RUNNING and not self.is_mine(t) for t in silence.counted(trials))
            for trials in every
        )

    def wanted(self, arm: Arm) -> int:
        return wanted(self.config, self.space, arm)

    def begun(self, arm: Arm) -> int:
        return len(silence.begun(self.every_trial(arm)))

    def search_arms(self, ratio: str | None = None) -> list[Arm]:
        return [arm for arm in self.studies if not arm.confirms and ratio in (None, arm.ratio)]

    # ---- handing out ----

    def next(self) -> Assignment | None:
        """The next trial to run; None when there is none now, and for good unless some are `live`."""
        while self.pending:
            arm, trial_id = self.pending.pop(0)
            trial = self.storage.get_trial(trial_id)
            if trial.state == TrialState.RUNNING:  # else it was taken back while it waited
                return self.assign(arm, optuna.Trial(self.seeded(arm, trial.number), trial_id))
        while True:
            self.confirm()
            open_arms = [arm for arm in self.studies if self.begun(arm) < self.wanted(arm)]
            if not open_arms:
                return None
            arm = min(open_arms, key=self.turn)
            if self.config.search.carry_over and arm.method == "cid" and not self.begun(arm):
                self.carry_over(arm)
            waiting = self.trials(arm, TrialState.WAITING)
            number = waiting[0].number if waiting else len(self.trials(arm))
            trial = self.seeded(arm, number).ask()
            if not self.shared or self.take(arm, trial):
                return self.assign(arm, trial)

    def take(self, arm: Arm, trial: optuna.Trial) -> bool:
        """Whether a shared trial is this machine's to run, and not one too many."""
        self.storage.record_heartbeat(trial._trial_id)
        shared.claim(trial, self.owner, places.absolute(self.home.name))
        every = self.every_trial(arm)
        counts = any(t.number == trial.number for t in silence.counted(every))
        if counts and sum(t.number < trial.number for t in silence.begun(every)) < self.wanted(arm):
            return True
        trial.set_user_attr(shared.SURPLUS, True)
        self.studies[arm].tell(trial.number, state=TrialState.FAIL)
        return False

    def turn(self, arm: Arm) -> tuple[float, ...]:
        """Sorts the open arms: baselines, then CID, then repeats; within each the one with the fewest trials."""
        phase = 2.0 if arm.confirms else float(arm.method == "cid")
        labels = self.order(arm.ratio) if self.config.search.carry_over and phase == 1 else 0
        return phase, labels, self.begun(arm)

    def order(self, ratio: str) -> int:
        return sorted(self.config.search.ratios, key=lambda r: sum(x or 0 for x in label_share(r))).index(ratio)

    def carry_over(self, arm: Arm) -> None:
        """The best settings so far of the ratio with the next fewer labels are this arm's first trial."""
        before = [
            a for a in self.search_arms() if a.method == "cid" and self.order(a.ratio) == self.order(arm.ratio) - 1
        ]
        best = self.ranked(before[0])[:1] if before else []
        for trial in best:
            self.studies[arm].enqueue_trial(
                trial.params, {silence.CARRIED_OVER: trial.user_attrs["run"]}, skip_if_exists=True
            )

    def seeded(self, arm: Arm, number: int) -> optuna.Study:
        study = self.studies[arm]
        salt = int(self.owner[:8], 16) if self.shared else 0  # or two machines would suggest the same
        study.sampler = make_sampler(self.config, list(self.studies).index(arm), number + salt)
        return study

    def assign(self, arm: Arm, trial: optuna.Trial) -> Assignment:
        pair = silence.pair_of(self.every_trial(arm), trial) if arm.confirms else 0
        if arm.confirms:
            params = {**self.space.fixed, **arm.params}
        else:
            tuned = self.wanted(arm) > 1 or arm.method == "cid"
            params = self.space.of_method(arm.method).suggest(trial) if tuned else dict(self.space.fixed)
        name = arm.run_name(trial.number, pair, silence.AGAIN in trial.user_attrs)
        if trial.user_attrs.get("run") != name:
            trial.set_user_attr("run", name)
        config = trial_config(self.config, arm, params, pair)
        test = pair > 0 or (arm.method != "cid" and self.wanted(arm) == 1)  # of many trials only the best is tested
        self.live[name] = Assignment(arm, name, config, trial, params, test, pair)
        return self.live[name]

    # ---- being told ----

    def keep(self, name: str, row: Row) -> None:
        """The row of a live trial, for the other machines of a shared study."""
        if self.shared and name in self.live and "images_seen" in row:  # not of a failure: its study says it
            shared.keep_row(self.live[name].trial, row)

    def kept_rows(self) -> list[Row]:
        """Of a shared study: the rows of all trials, whoever ran them."""
        found = (t for arm in self.studies for t in self.trials(arm, *ENDED)) if self.shared else ()
        return [row for trial in found for row in shared.rows_of(trial)]

    def rung(self, name: str, row: Row) -> bool:
        """Report a rung to its study; True when the trial is to be pruned (it is then told PRUNED, with its curve)."""
        assignment = self.live[name]
        if self.config.search.cost:
            return False  # Optuna keeps no curves of trials with two objectives
        trial_id, step, value = assignment.trial._trial_id, int(row["images_seen"]), row[self.config.search.metric]
        if step not in self.storage.get_trial(trial_id).intermediate_values:  # else it came once before a kill
            assignment.trial.report(float("nan") if value is None else value, step)
        study, counted = self.studies[assignment.arm], silence.counted if self.shared else list
        if row["step"] >= row["steps"] or not decide.should_prune(study, trial_id, step, counted):
            return False
        self.end(name, TrialState.PRUNED)
        return True

    def complete(self, name: str, row: Row) -> tuple[str, str]:
        """How the trial ended, and why if it failed after all."""
        value, cost = row[self.config.search.metric], self.config.search.cost
        if value is None:
            self.fail(name, NO_VALUE)
            return "failed", NO_VALUE
        self.end(name, TrialState.COMPLETE, [value, row[cost]] if cost else [value])
        return "complete", ""

    def fail(self, name: str, reason: str) -> None:
        if name in self.live:
            self.live[name].trial.set_user_attr(silence.FAILED, reason)
            self.end(name, TrialState.FAIL)

    def retry(self, name: str) -> int:
        """The process of a live trial is gone: hand it out again. How often that was done; 0: no more, it failed."""
        assignment = self.live[name]
        again = int(assignment.trial.user_attrs.get("retries", 0)) + 1
        if again > self.config.search.retries:
            return 0
        assignment.trial.set_user_attr("retries", again)
        self.pending.append((assignment.arm, self.live.pop(name).trial._trial_id))
        return again

    def end(self, name: str, state: TrialState, values: list[float] | None = None) -> None:
        """UpdateFinishedTrialError, as of all that writes to a trial, when it was taken from this machine."""
        assignment = self.live.pop(name)
        ended = self.studies[assignment.arm].tell(assignment.trial.number, values, state, skip_if_finished=True)
        if ended.state != state:
            raise UpdateFinishedTrialError(name)

    # ---- confirming ----

    def confirm(self) -> None:
        """Open the repeats of every ratio whose search has ended."""
        if not self.config.search.confirm.repeats:
            return
        for ratio in self.config.search.ratios:
            arms = self.search_arms(ratio)
            if any(self.begun(arm) < self.wanted(arm) or self.trials(arm, TrialState.RUNNING) for arm in arms):
                continue
            for candidate in self.candidates(ratio):
                if candidate not in self.studies:
                    self.open_arm(candidate)

    def candidates(self, ratio: str) -> list[Arm]:
        """The best trial of every baseline and the best `confirm.top` CID trials at one ratio, as arms of repeats."""
        found = []
        for arm in self.search_arms(ratio):
            count = self.config.search.confirm.top if arm.method == "cid" else 1
            found += [Arm(ratio, arm.method, t.user_attrs["run"], dict(t.params)) for t in self.ranked(arm)[:count]]
        return found

    # ---- what there is ----

    def ranked(self, arm: Arm) -> list[FrozenTrial]:
        """Trials of full length, best first."""
        return sorted(self.trials(arm, TrialState.COMPLETE), key=lambda t: (-t.values[0], t.number))

    def states(self) -> dict[Arm, Counter[str]]:
        return {arm: Counter(t.state.name for t in self.trials(arm)) for arm in self.studies}

    def ended(self) -> dict[str, TrialState]:
        """Run name -> how it ended."""
        found = (t for arm in self.studies for t in self.trials(arm, *ENDED))
        return {t.user_attrs["run"]: t.state for t in found if "run" in t.user_attrs}

    def total(self) -> int:
        """Trials in all; of the repeats that are not yet opened as many as there can be."""
        search = self.config.search
        opened = {arm.ratio for arm in self.studies if arm.confirms}
        each = search.confirm.repeats * (len(search.baselines) + min(search.confirm.top, search.trials))
        return sum(self.wanted(arm) for arm in self.studies) + each * (len(search.ratios) - len(opened))
