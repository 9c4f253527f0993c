"""Trials of machines that have fallen silent, in studies that several share: taken from them, and begun again once.

A machine records a heartbeat for each of its trials, by the database's clock. After SILENT_SECONDS without one Optuna
fails the trial, in one step: its machine, were it only frozen, can write to it no more. A trial that has failed without
a reason is lost. It does not count, and a waiting trial with its settings (of a repeat: its seed and draw too) follows
it. When two machines add that one at once, the first by number counts.

Optuna's own callback for such trials comes after it has failed them; a kill between the two would lose the settings.
So what has to follow is read from the study, and whatever a kill leaves half done, the next machine to look completes.
"""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import fail_stale_trials
from optuna.trial import FrozenTrial, TrialState

from cid_ray.search.shared import OWNER, ROOT, SURPLUS

if TYPE_CHECKING:
    from cid_ray.search.studies import Studies

SILENT_SECONDS = 300  # of a machine; after that its trials are lost
BEATS = 5  # in that time; as often every machine looks for silent ones
AGAIN, FAILED, CARRIED_OVER = "again", "failed", "carried_over_from"  # attributes: a lost number, a reason, a run
warnings.filterwarnings("ignore", message="Heartbeat of storage is supposed")  # ask() cannot know who records it


def is_lost(trial: FrozenTrial) -> bool:
    return trial.state == TrialState.FAIL and not {FAILED, SURPLUS} & trial.user_attrs.keys()


def counted(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Of all trials of a study those that count."""
    found, followed = [], set[int]()
    for trial in trials:
        lost = trial.user_attrs.get(AGAIN)
        if lost not in followed and not trial.user_attrs.get(SURPLUS) and not is_lost(trial):
            found.append(trial)
        if lost is not None:
            followed.add(lost)
    return found


def unfollowed(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The lost ones that no trial follows yet."""
    followed = {t.user_attrs.get(AGAIN) for t in trials}
    return [t for t in trials if is_lost(t) and t.number not in followed]


def begun(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Those that count and wait no more; and lost ones, in whose stead none may begin but the trial that follows."""
    return [t for t in counted(trials) if t.state != TrialState.WAITING] + unfollowed(trials)


def pair_of(trials: Sequence[FrozenTrial], trial: FrozenTrial | optuna.Trial) -> int:
    """Which of a candidate's repeats it is, from 1: the same as the lost one it follows, else counted by number."""
    if AGAIN in trial.user_attrs:
        return pair_of(trials, trials[trial.user_attrs[AGAIN]])
    return 1 + sum(not {SURPLUS, AGAIN} & t.user_attrs.keys() for t in trials[: trial.number])


def take_back(study: optuna.Study) -> None:
    """Fail the trials of silent machines, and enqueue those that follow."""
    fail_stale_trials(study)
    for lost in unfollowed(study.get_trials(deepcopy=False)):
        carried = {key: lost.user_attrs[key] for key in (CARRIED_OVER,) if key in lost.user_attrs}
        study.enqueue_trial(
            {**lost.system_attrs.get("fixed_params", {}), **lost.params}, {AGAIN: lost.number, **carried}
        )


class Vigil:
    """One machine's: a heartbeat for its own trials, and a look at those of the others. Of a local search: nothing."""

    def __init__(self, studies: Studies):
        self.studies, self.every = studies, studies.silent / BEATS
        self.look_at = 0.0  # an instant of time.monotonic()
        self.unclaimed: set[int] = set()

    def beat(self) -> None:
        if self.studies.shared:
            live, pending = list(self.studies.live.values()), list(self.studies.pending)
            for trial_id in [a.trial._trial_id for a in live] + [trial_id for _, trial_id in pending]:
                self.studies.storage.record_heartbeat(trial_id)

    @contextmanager
    def beating(self) -> Iterator[None]:
        """In a thread of its own, for the driver may be held up."""
        over = threading.Event()

        def run() -> None:
            while not over.wait(self.every):
                with suppress(StorageInternalError):  # the search itself will notice
                    self.beat()

        if self.studies.shared:
            threading.Thread(target=run, daemon=True, name="cid-ray-heartbeat").start()
        try:
            yield
        finally:
            over.set()

    def look(self) -> bool:
        """Take back the trials of silent machines; False when it is not yet time to look again."""
        if not self.studies.shared or time.monotonic() < self.look_at:
            return False
        self.look_at = time.monotonic() + self.every
        self.beat()  # first: to a machine that was frozen its own trials seem silent
        self.adopt()
        for study in self.studies.studies.values():
            take_back(study)
        return True

    def adopt(self) -> None:
        """One heartbeat for a trial that nobody claimed: a kill came right after ask(), from now on it is silent."""
        for arm in self.studies.studies:
            for trial in self.studies.trials(arm, TrialState.RUNNING):
                if OWNER not in trial.user_attrs and trial._trial_id not in self.unclaimed:
                    self.unclaimed.add(trial._trial_id)
                    self.studies.storage.record_heartbeat(trial._trial_id)

    def lost(self) -> dict[str, str]:
        """Run name -> folder of its machine, of all trials that were taken back."""
        found = {}
        for arm in self.studies.studies if self.studies.shared else ():
            trials = self.studies.every_trial(arm)
            for trial in filter(is_lost, trials):
                name = arm.run_name(trial.number, pair_of(trials, trial), AGAIN in trial.user_attrs)
                found[name] = str(trial.user_attrs.get(ROOT, "unknown"))
        return found
