"""The end of a search: test the winners, record what was found, drop losers' checkpoints, write the page."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from cid_ray import checkpoints, places, report
from cid_ray.results.record import Row, read_rows
from cid_ray.results.summary import noise_rows, summarize
from cid_ray.run.fleet import Resources
from cid_ray.search import findings
from cid_ray.search.arms import Assignment
from cid_ray.search.shared import ROOT
from cid_ray.search.watch import Watch

Source = Callable[[str, float, dict[str, Any]], Iterator[Row]]  # folder, CPUs, a trial's task -> its rows


def close(watch: Watch, request: Resources, source: Source) -> None:
    """Test the winners, record what was found, write the page."""
    from cid_ray.search.tuning import BROKEN

    config = watch.studies.config
    try:
        watch.check()
        watch.catch_up()
        test_winners(watch, request, source)
        drop_losers(watch)
        for row in findings.search_rows(watch.studies):
            watch.rows.add(row)
        for row in noise_rows(summarize(read_rows(watch.home.here), config.search.metric)):
            watch.rows.add(row)
        watch.home.fetch("samples")
        report.write(watch.home, config, functools.partial(watch.screen.say, always=True))
        watch.home.send()
    except BROKEN as error:
        watch.broken(error)


def test_winners(watch: Watch, request: Resources, source: Source) -> None:
    """Score the winners on held-out images: their finished runs are resumed, which only tests."""
    import ray

    @ray.remote(num_cpus=request.cpus, num_gpus=request.gpus)
    def last_row(root: str, task: dict[str, Any]) -> Row:
        return list(source(root, request.cpus, task))[-1]

    winners = [w for w in findings.winners(watch.studies) if at_hand(watch, w)]
    tasks: Iterable[Any] = (last_row.remote(root_of(watch, w), w.task) for w in winners)
    if watch.studies.config.scale.most == 1:  # Ray queues what does not fit, but crews of workers starve one another
        tasks = list(tasks)
    for winner, task in zip(winners, tasks, strict=True):
        try:
            watch.tested({**ray.get(task), "params": dict(winner.params)})
        except ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[-1]
            watch.screen.say(f"{winner.name} could not be tested ({reason}); --resume {watch.home} tries again", True)


def root_of(watch: Watch, winner: Assignment) -> str:
    """The folder of the run that holds a winner's checkpoint: with a shared study another machine's, perhaps."""
    return str(winner.trial.user_attrs.get(ROOT) or places.absolute(watch.home.name))


def at_hand(watch: Watch, winner: Assignment) -> bool:
    """Whether a winner can be tested from here; if its checkpoint is not seen, it would be trained again."""
    folder = checkpoints.folder_of(winner.config, root_of(watch, winner), winner.name)
    seen = watch.studies.is_mine(winner.trial) or places.exists(places.join(folder, "last.pt"))
    if not seen:
        told = f"{winner.name} is not tested from here: {folder} belongs to another machine; resume there"
        watch.screen.say(told, True)
    return seen


def drop_losers(watch: Watch) -> None:
    """Keep the checkpoints of each arm's best, of what was repeated, and of trials that can go on."""
    studies = watch.studies
    kept = {findings.chosen(studies, arm) for arm in studies.search_arms()} | {arm.confirms for arm in studies.studies}
    if studies.config.search.confirm.repeats:  # of a search that was stopped: any of these may be chosen yet
        kept |= {arm.confirms for ratio in studies.config.search.ratios for arm in studies.candidates(ratio)}
    for trial in (t for arm in studies.search_arms() for t in studies.ranked(arm)):
        if trial.user_attrs["run"] not in kept:
            places.remove(checkpoints.folder_of(studies.config, watch.home.name, trial.user_attrs["run"]))
