"""One Optuna study per label ratio and method, in one storage: the single source of truth for a
search.

Ray forgets its scheduler's state on restore and tells Optuna that a pruned trial is COMPLETE. So
studies are asked and told here, with `images_seen` as the resource, and everything can be read from
the storage again after a kill.

The storage is the run folder's journal or, with `study.storage`, a shared database (rdb.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from cid_ray.config import Config, InputError
from cid_ray.results.records import Record, RecordReader
from cid_ray.search import _optuna_compat, order, rdb, trial_states
from cid_ray.search.checks import directions_of
from cid_ray.search.consistency import check_consistency
from cid_ray.search.journal import (
    JOURNAL,
    check_same_search,
    cut_torn_line,
    open_journal,
    search_fingerprint,
    stored_trials,
)
from cid_ray.search.plugins import make_pruner
from cid_ray.search.space import Space
from cid_ray.search.trial_index import TrialIndex
from cid_ray.search.trial_spec import StudyKey, TrialSpec, identity_fields, n_trials
from cid_ray.search.trial_states import FINISHED_STATES, STATE_NAMES
from cid_ray.storage import paths
from cid_ray.storage.run_dir import RunDir

TIMEOUT_S = 300  # seconds without a heartbeat after which a machine's trials are stale


class StudyStore:
    """The studies of one search: what was asked and told, by this process, earlier ones and other
    machines.

    Attributes:
        studies: study key -> Optuna study, in the order in which they were opened.
        shared: whether other machines may work on the same studies.
        owner: the id of this run folder in shared studies.
        notes: what is odd in the run folder and prevents nothing.
        timeout_s: seconds without a heartbeat after which a shared trial is stale.
    """

    def __init__(
        self,
        run_dir: RunDir,
        config: Config,
        space: Space,
        content_hashes: Mapping[str, str] | None = None,
        timeout_s: int = TIMEOUT_S,
    ):
        """Open the storage and check that it holds this search.

        Args:
            run_dir: the run folder.
            config: the configuration of the search.
            space: the parsed `search.space`.
            content_hashes: of data set and weights file, part of the search's fingerprint.
            timeout_s: the same on all machines of a shared study.

        Raises:
            InputError: the storage cannot be opened or holds another search.
        """
        self.run_dir = run_dir
        self.config = config
        self.space = space
        self.content_hashes = dict(content_hashes or {})
        self.timeout_s = timeout_s
        self.studies: dict[StudyKey, optuna.Study] = {}
        self.shared = bool(url := config.study.storage)
        self.name = (config.study.name or run_dir.basename) if url else ""
        journal = run_dir.local / JOURNAL
        self.storage: Any = (
            rdb.open_rdb(url, timeout_s) if url else open_journal(journal, run_dir.uri)
        )
        try:
            trials = stored_trials(self.storage, run_dir.uri, self.name)
        except ValueError as error:  # of a journal `open_journal` has said it
            raise InputError(f"the studies' database is damaged: {error}") from None
        reader = RecordReader(run_dir.local)
        self.notes = check_consistency(reader, trials, config.search, run_dir.uri, shared=self.name)
        if not url:
            self.notes += filter(None, [cut_torn_line(journal)])
        self.owner, self._is_new = rdb.run_owner(run_dir.local) if url else ("", True)
        run_dir.push()  # the owner id, before a trial carries it
        if self.shared:
            # The fingerprint has a study of its own: machines open studies in different orders.
            study = optuna.create_study(
                storage=self.storage, study_name=self.name, load_if_exists=True
            )
            self._check_same_search(study)

    # ---- studies ----

    def open_study(self, key: StudyKey) -> optuna.Study:
        """Create or load a study; its first trials are those of `search.points_to_evaluate`."""
        searches = self.n_trials(key) > 1 and not key.repeats_of
        study = optuna.create_study(
            storage=self.storage,
            study_name=f"{self.name}: {key.study_name}" if self.shared else key.study_name,
            directions=directions_of(self.config),
            pruner=make_pruner(self.config, key.method) if searches else optuna.pruners.NopPruner(),
            load_if_exists=True,
        )
        if not self.studies and not self.shared:
            self._check_same_search(study)
        self.studies[key] = study
        if searches:
            searched = {p.key for p in self.space.of_method(key.method).parameters}
            for point in self.config.search.points_to_evaluate:
                own = {name: value for name, value in point.items() if name in searched}
                study.enqueue_trial(own, skip_if_exists=True)
        return study

    def _check_same_search(self, study: optuna.Study) -> None:
        fingerprint = search_fingerprint(self.config, self.content_hashes)
        if self.shared:
            check_same_search(study, fingerprint, self.name, "with another study.name")
        else:
            new = f"--warm-start {self.run_dir} starts from its best hyperparameters"
            check_same_search(study, fingerprint, str(self.run_dir), new)

    def search_keys(self, ratio: str | None = None) -> list[StudyKey]:
        """The studies that search, of one ratio or of all; without those that repeat."""
        return [k for k in self.studies if not k.repeats_of and ratio in (None, k.ratio)]

    def repeat_keys(self) -> list[StudyKey]:
        """The studies that repeat a run."""
        return [k for k in self.studies if k.repeats_of]

    def study_index(self, key: StudyKey) -> int:
        """Position among the opened studies; part of the sampler's seed."""
        return list(self.studies).index(key)

    # ---- trials ----

    def all_trials(self, key: StudyKey) -> list[FrozenTrial]:
        """All trials of a study, stale ones and duplicates too."""
        return self.studies[key].get_trials(deepcopy=False)

    def trials(self, key: StudyKey, *states: TrialState) -> list[FrozenTrial]:
        """The trials that count, in these states or in all."""
        if not self.shared:
            return self.studies[key].get_trials(deepcopy=False, states=states or None)
        effective = trial_states.effective_trials(self.all_trials(key))
        return [t for t in effective if not states or t.state in states]

    def _index(self, key: StudyKey) -> TrialIndex | None:
        """The trials in memory; None in a shared study, which other machines change."""
        if self.shared:
            return None
        return self.storage.index(_optuna_compat.study_id(self.studies[key]))

    def ranked(self, key: StudyKey, count: int | None = None) -> list[FrozenTrial]:
        """Completed trials, best first; all or the best `count` of them."""
        if index := self._index(key):
            return index.best(TrialState.COMPLETE, count)
        complete = self.trials(key, TrialState.COMPLETE)
        return sorted(complete, key=lambda t: (-t.values[0], t.number))[:count]

    def best_value(self, key: StudyKey) -> float | None:
        """mIoU on val (percent) of the best completed trial."""
        return next((t.values[0] for t in self.ranked(key, 1)), None)

    def is_own(self, trial: FrozenTrial) -> bool:
        """Whether this run folder runs the trial.

        An unclaimed one of a shared study may be ours: a kill can come between ask and claim.
        """
        owner = trial.user_attrs.get(rdb.OWNER)
        return not self.shared or owner == self.owner or (owner is None and not self._is_new)

    # ---- counts ----

    def n_trials(self, key: StudyKey) -> int:
        """How many trials the study gets in all."""
        return n_trials(self.config, self.space, key)

    def n_started(self, key: StudyKey) -> int:
        """How many of them have started."""
        if not self.shared:
            return self.count(key) - self.count(key, TrialState.WAITING)
        return len(trial_states.started_trials(self.all_trials(key)))

    def count(self, key: StudyKey, *states: TrialState) -> int:
        """How many trials that count are in these states, or in all."""
        index = self._index(key)
        return index.count(states or None) if index else len(self.trials(key, *states))

    def n_finished(self) -> int:
        """How many trials of the search have finished."""
        return sum(self.count(key, *FINISHED_STATES) for key in self.studies)

    def n_remote(self) -> int:
        """Trials that other machines run now, or whose machine was just found without heartbeat."""
        if not self.shared:
            return 0
        count = 0
        for key in self.studies:
            trials = self.all_trials(key)
            count += len(trial_states.unretried(trials))
            for trial in trial_states.effective_trials(trials):
                count += trial.state == TrialState.RUNNING and not self.is_own(trial)
        return count

    def total_trials(self) -> int:
        """Trials of the search; of repeats that are not opened yet the most there can be."""
        search = self.config.search
        opened = {key.ratio for key in self.repeat_keys()}
        unopened = [key for key in self.search_keys() if key.ratio not in opened]
        repeats = order.n_repeats(unopened, self.n_trials, search.repeats)
        return sum(self.n_trials(key) for key in self.studies) + repeats

    def finished(self) -> dict[str, TrialState]:
        """Run name -> final state."""
        found = (t for key in self.studies for t in self.trials(key, *FINISHED_STATES))
        return {t.user_attrs["run"]: t.state for t in found if "run" in t.user_attrs}

    def finished_runs(self) -> list[tuple[dict[str, Any], str]]:
        """Identity fields and "complete", "pruned" or "failed" of every finished trial."""
        found = []
        for key in self.studies:
            for trial in self.trials(key, *FINISHED_STATES):
                if "run" in trial.user_attrs:
                    index = self.repeat_index(key, trial)
                    fields = identity_fields(key, trial.user_attrs["run"], trial.number, index)
                    found.append((fields, STATE_NAMES[trial.state.name]))
        return found

    def repeat_index(self, key: StudyKey, trial: FrozenTrial | optuna.Trial) -> int:
        """From 1 for a trial of a repeat study, else 0."""
        if not key.repeats_of:
            return 0
        return trial_states.repeat_index_of(self.all_trials(key), trial)

    def state_counts(self, key: StudyKey) -> Counter[str]:
        """Optuna's state name -> number of trials."""
        if index := self._index(key):
            return +Counter({state.name: index.count((state,)) for state in TrialState})
        return Counter(t.state.name for t in self.trials(key))

    # ---- writing ----

    def one_step(self) -> AbstractContextManager[None]:
        """What the block writes to the studies is on the disk when it ends."""
        return nullcontext() if self.shared else self.storage.one_step()

    def claim(self, key: StudyKey, trial: optuna.Trial) -> bool:
        """Claim a trial of a shared study for this machine; False when it is one too many.

        Two machines can ask at the same time. The storage numbers trials: both know the later one.
        """
        self.storage.record_heartbeat(_optuna_compat.trial_id(trial))
        rdb.claim(trial, self.owner, paths.absolute(self.run_dir.uri))
        trials = self.all_trials(key)
        counts = any(t.number == trial.number for t in trial_states.effective_trials(trials))
        earlier = sum(t.number < trial.number for t in trial_states.started_trials(trials))
        if counts and earlier < self.n_trials(key):
            return True
        trial.set_user_attr(trial_states.DUPLICATE, True)
        self.studies[key].tell(trial.number, state=TrialState.FAIL)
        return False

    def finish(self, spec: TrialSpec, state: TrialState, values: list[float] | None = None) -> None:
        """Tell a study how a trial finished.

        Raises:
            UpdateFinishedTrialError: the trial was already finished in another way: its heartbeat
                had stopped.
        """
        study = self.studies[spec.key]
        finished = study.tell(spec.trial.number, values, state, skip_if_finished=True)
        if finished.state != state:
            raise UpdateFinishedTrialError(spec.name)

    def store_record(self, spec: TrialSpec, record: Record) -> None:
        """Store a running trial's record for the other machines of a shared study."""
        if self.shared and "images_seen" in record:  # a failure has none; its study has the reason
            rdb.store_record(spec.trial, record)

    def stored_records(self) -> list[Record]:
        """The records of all finished trials of a shared study, of any machine."""
        if not self.shared:
            return []
        found = (t for key in self.studies for t in self.trials(key, *FINISHED_STATES))
        return [record for trial in found for record in rdb.stored_records(trial)]
