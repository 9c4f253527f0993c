"""The end of a search: score the winners on test, record the analysis, delete the losers'
checkpoints, write the report.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from cid_ray.config import error_summary
from cid_ray.resources.capacity import Resources
from cid_ray.resources.costs import with_hour
from cid_ray.results.compact_records import CompactRecordReader
from cid_ray.results.noise_records import noise_records
from cid_ray.results.records import Record
from cid_ray.results.summary import summarize
from cid_ray.results.text_report import write_report
from cid_ray.search import analysis, rdb
from cid_ray.search.repeats import repeat_candidates
from cid_ray.search.trial_fn import TrialFn
from cid_ray.search.trial_spec import TrialSpec
from cid_ray.storage import checkpoint_paths, paths

if TYPE_CHECKING:
    from cid_ray.search.controller import Search

POLL_S = 0.5  # how often a wait for test scores looks for Ctrl-C


def finalize_search(search: Search, trial_fn: TrialFn, resources: Resources | None) -> None:
    """The steps in order; each can be repeated after a kill.

    Args:
        search: whose trials have finished or were stopped.
        trial_fn: runs a trial; a finished one is resumed and only scored on test.
        resources: what one run asks Ray for; None: run in this process, without Ray.
    """
    score_winners(search, trial_fn, resources)
    delete_losing_checkpoints(search)
    for record in analysis.search_records(search.store):
        search.events.records.append(record)
    reader = CompactRecordReader(search.run_dir.local)
    for record in noise_records(summarize(reader.read(), search.config.search.metric)):
        search.events.records.append(record)
    records = reader.read()
    search.run_dir.pull("samples")  # pictures that other nodes wrote
    log = functools.partial(search.log, important=True)
    write_report(search.run_dir, with_hour(search.config), records, log)
    search.run_dir.push()


def score_winners(search: Search, trial_fn: TrialFn, resources: Resources | None) -> None:
    """Score the winners on held-out images: their finished runs are resumed, which only tests."""
    winners = [w for w in analysis.winners(search.store) if _checkpoint_reachable(search, w)]
    if resources is None:
        for winner in winners:
            try:
                records = list(trial_fn(run_dir_of(search, winner), 1.0, winner.payload))
            except Exception as error:
                _log_not_scored(search, winner, error_summary(error, with_type=True))
            else:
                _record_test_scores(search, winner, records[-1])
        return
    import ray

    @ray.remote(num_cpus=resources.cpus, num_gpus=resources.gpus)
    def last_record(run_dir: str, payload: dict[str, Any]) -> Record:
        return list(trial_fn(run_dir, resources.cpus, payload))[-1]

    tasks = (last_record.remote(run_dir_of(search, w), w.payload) for w in winners)
    # Ray queues single-process tasks that do not fit. Multi-worker tests are submitted one at a
    # time: half-placed groups would wait for each other forever.
    several = search.config.distributed.max_workers == 1
    for winner, task in zip(winners, list(tasks) if several else tasks, strict=True):
        while not search.rules.interrupted and not ray.wait([task], timeout=POLL_S)[0]:
            pass
        if search.rules.interrupted:
            search.log("interrupted: winners are scored on test after a resume", important=True)
            return
        try:
            _record_test_scores(search, winner, ray.get(task))
        except ray.exceptions.RayError as error:
            # The last line names the cause; the first ones are the remote traceback.
            _log_not_scored(search, winner, str(error).strip().splitlines()[-1])


def _log_not_scored(search: Search, winner: TrialSpec, reason: str) -> None:
    search.not_scored.append(winner.name)
    search.log(
        f"{winner.name} could not be scored on test ({reason}); --resume {search.run_dir} "
        "tries again",
        important=True,
    )


def _record_test_scores(search: Search, winner: TrialSpec, record: Record) -> None:
    record = {**record, **winner.identity_fields, "params": dict(winner.params)}
    search.events.records.append(record)
    search.callbacks.on_trial_result(record)


def run_dir_of(search: Search, winner: TrialSpec) -> str:
    """The run folder with a winner's checkpoint; in a shared study it may be another machine's."""
    own = paths.absolute(search.run_dir.uri)
    return str(winner.trial.user_attrs.get(rdb.RUN_DIR) or own)


def _checkpoint_reachable(search: Search, winner: TrialSpec) -> bool:
    """Whether a winner can be scored here. Without its checkpoint it would be trained again."""
    folder = checkpoint_paths.checkpoint_dir(winner.config, run_dir_of(search, winner), winner.name)
    if paths.exists(paths.join(folder, "last.pt")):
        return True
    if search.store.is_own(winner.trial):
        search.log(f"{winner.name} is trained again: its checkpoint is not in {folder}", True)
        return True
    search.log(
        f"{winner.name} is not scored on test: {folder} belongs to another machine; resume the "
        "search there",
        True,
    )
    return False


def delete_losing_checkpoints(search: Search) -> None:
    """Keep the checkpoints of each study's best, of repeated runs, and of unfinished trials."""
    store = search.store
    kept = {analysis.chosen_run(store, key) for key in store.search_keys()}
    kept |= {key.repeats_of for key in store.repeat_keys()}
    if search.config.search.repeats.n:
        # A search that was stopped early may still choose any of these.
        for ratio in search.config.search.all_ratios:
            kept |= {key.repeats_of for key in repeat_candidates(store, ratio)}
    for key in store.search_keys():
        for trial in store.ranked(key):
            run = trial.user_attrs["run"]
            if run not in kept:
                checkpoint_paths.remove_checkpoints(search.config, search.run_dir.uri, run)
