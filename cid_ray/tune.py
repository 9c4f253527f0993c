"""`python -m cid_ray.tune`: search CID's settings at several label ratios, beside three baselines, with one Tune run.

One Optuna study per ratio, in one journal, suggests and prunes; Ray Tune places the trials. With no options it runs
search_spaces/demo.yaml on the generated data set. It ends in a table, record rows and report/index.html.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cid_ray import beside, checkpoints, cli, places, report, restarts
from cid_ray.config import Config, InputError, override
from cid_ray.results.pulse import Pulse
from cid_ray.results.record import Row, read_rows
from cid_ray.results.summary import noise_rows, summarize
from cid_ray.run import cluster
from cid_ray.run.display import Display
from cid_ray.search import findings
from cid_ray.search.arms import Arm, check_search, trial_config
from cid_ray.search.journal import Hold
from cid_ray.search.studies import Studies
from cid_ray.search.watch import Watch

EXAMPLES = """
  python -m cid_ray.tune
  python -m cid_ray.tune --config search_spaces/camvid.yaml --set data.table=tables/camvid --trials 20
  python -m cid_ray.tune --config my.yaml --budget 3600
  python -m cid_ray.tune --resume runs/camvid-20260101-120000
"""
CLOSING_SECONDS = 15.0  # of a --budget: kept for the page, beside what the baselines' tests were seen to take


def main(argv: list[str]) -> int:
    args = options().parse_args(argv)
    if args.restarts:
        return restarts.guard("cid_ray.tune", argv, args)
    started = time.monotonic()
    if args.trials is not None:
        args.changes.append(f"search.trials={args.trials}")
    config, out = cli.open_run(args, "tune", None if args.config or args.resume else cli.shipped("demo.yaml"))
    config, told = grow(config, args)
    space = check_search(config)
    counts, contents = check_data(config)
    cluster.start_ray()
    request, at_once = check_cluster(config)
    if not args.resume:
        cli.claim(config, out)
    deadline = started + args.budget - CLOSING_SECONDS if args.budget else None
    with Hold(out) as hold:
        studies = Studies(out / "study.journal", config, space, contents)
        if args.resume:
            cli.claim(config, out)  # only now: a changed search has been refused
        with Display(out, studies.total(), "trial") as display:
            watch = Watch(out, hold, studies, display, deadline)
            watch.listeners.append(Pulse(watch))
            announce(watch, counts, request, at_once, told)
            with beside.dashboard(args.dashboard, out, display.say), interruptible(watch):
                search(watch, request, at_once)
                close(watch, request)
            watch.tell("close")
            return exit_code(watch, started)


def options() -> cli.Parser:
    options = cli.parser("tune", __doc__ or "", EXAMPLES)
    cli.add_config_options(options, changeable=True)
    restarts.add_option(options)
    options.add_argument("--trials", type=int, metavar="N", help="CID trials per ratio (search.trials)")
    options.add_argument("--extend", type=int, metavar="N", help="with --resume: N more CID trials per ratio")
    options.add_argument("--budget", type=float, metavar="SECONDS", help="end, report included, in about this time")
    beside.add_option(options)
    options.add_argument("--warm-start", metavar="RUN", help="begin with the best settings of an earlier run's records")
    return options


def grow(config: Config, args: Any) -> tuple[Config, str]:
    """The config with --extend's trials and --warm-start's points; and what to tell about them."""
    if args.budget is not None and args.budget <= 0:
        raise InputError(f"--budget is {args.budget}, must be a positive number of seconds")
    tree = config.model_dump(mode="json")
    if args.extend is not None:
        if not args.resume or args.extend < 1:
            raise InputError(
                f"--extend {args.extend} adds that many trials to the search of --resume DIR; both are needed"
            )
        return override(tree, {"search.trials": config.search.trials + args.extend}), ""
    if not args.warm_start:
        return config, ""
    if args.resume:
        raise InputError("--warm-start begins a new run: leave out --resume, or leave out --warm-start")
    points, told = findings.warm_start(Path(args.warm_start), check_search(config), config.search.metric)
    return override(tree, {"search.start": [*points, *config.search.start]}), told


def check_data(config: Config) -> tuple[dict[str, str], dict[str, str]]:
    """Everything that data and model can get wrong, before Ray starts: ratio -> "1/16 (23)"; hashes of both."""
    from cid_ray.core.model import Segmenter
    from cid_ray.data.splits import make_split
    from cid_ray.data.table import open_table
    from cid_ray.run.build import check

    table = open_table(config.data.table)
    counts = {}
    for ratio in config.search.ratios:
        for method in (*config.search.baselines, "cid"):
            arm = trial_config(config, Arm(ratio, method), {})
            split = make_split(table, arm.data)
            check(arm, table, split)
        counts[ratio] = split.name
    Segmenter(config.model, table.num_classes)
    weights = Path(config.model.weights)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()[:16] if weights.is_file() else config.model.weights
    return counts, {"the data set": table.fingerprint, "the weights file": digest}


def check_cluster(config: Config) -> tuple[cluster.Resources, int]:
    """What one trial asks for, and how many run at once; InputError when not even one can ever be placed."""
    search = config.search
    if config.scale.most > 1:
        from cid_ray.run.workers import check_workers

        worker = check_workers(config)
        total = sum(node.cpus for node in cluster.nodes())
        fit = int(total // (config.scale.most * worker.cpus + config.scale.data_cpus + 0.01))
        return cluster.Resources(0.01, 0), max(1, min(fit, search.concurrency or fit))
    gpus = (1.0 if cluster.has_gpus() else 0.0) if search.gpus_per_trial is None else search.gpus_per_trial
    request = cluster.Resources(search.cpus_per_trial, gpus)
    cluster.check_placeable(
        request, 1, "a trial", "Lower search.cpus_per_trial or search.gpus_per_trial, or add nodes."
    )
    fit = cluster.places(request)
    return request, min(fit, search.concurrency or fit)


def trial_rows(root: str, cpus: float, task: dict[str, Any], lasting: bool = False) -> Iterator[Row]:
    """The rows of one trial: the training loop itself, in this process, or Ray Train's workers running it.

    A `lasting` process runs one trial after another: it keeps its CPUs and its workers.
    """
    config = Config.model_validate_json(task["config"])
    if config.scale.most > 1:
        from cid_ray.run.workers import train_on_workers

        yield from train_on_workers(config, Path(root), task["name"], task["test"], keep=lasting)
        return
    from cid_ray.data.batches import kept_reader
    from cid_ray.run.loop import train
    from cid_ray.run.pinning import pin
    from cid_ray.run.run import Job

    if lasting:
        pin(int(cpus))  # shares of a CPU are not pinned
    job = Job(config, Path(root), task["name"], threads=max(1, int(cpus)), test=task["test"])
    job.reader = kept_reader(config.data, config.data.cache_mb)
    yield from train(job)


@contextlib.contextmanager
def interruptible(watch: Watch) -> Iterator[None]:
    former = signal.signal(signal.SIGINT, watch.interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, former)


# ---- the phases ----


def announce(watch: Watch, counts: dict[str, str], request: cluster.Resources, at_once: int, told: str) -> None:
    say, search, studies = watch.screen.say, watch.studies.config.search, watch.studies
    say(f"run folder {watch.out}; stop and go on with: python -m cid_ray.tune --resume {watch.out}")
    arms = {arm.method: studies.wanted(arm) for arm in studies.search_arms()}
    each = ", ".join(f"{method} {count}" for method, count in arms.items())
    say(f"ratios {', '.join(counts.values())}; trials at each: {each}")
    untuned = [m for m in search.baselines if search.baseline_trials > 1 and arms[m] == 1]
    if untuned:
        say(f"run once, because search.space has no setting of their own (such as optim.lr): {', '.join(untuned)}")
    if search.confirm.repeats:
        say(f"then the baselines and the best {search.confirm.top} CID again, on {search.confirm.repeats} fresh seeds")
    say(f"{search.sampler.name} suggests, {search.pruner.name} prunes; {at_once} trials at once, each {request}")
    if told:
        say(told)
    if watch.ended_before:
        again = len(studies.pending)
        say(f"{watch.ended_before} of {watch.total} trials are done, {again} interrupted ones go on")


def search(watch: Watch, request: cluster.Resources, at_once: int) -> None:
    from cid_ray.search.tuning import run_trials

    source = functools.partial(trial_rows, str(watch.out.resolve()), request.cpus, lasting=True)
    try:
        run_trials(watch.studies, watch, source, request.bundle(), at_once)
    except OSError as error:
        watch.broken(error)


def close(watch: Watch, request: cluster.Resources) -> None:
    """Test the winners, record what was found, write the page."""
    config = watch.studies.config
    try:
        watch.check()
        test_winners(watch, request)
        drop_losers(watch)
        for row in findings.search_rows(watch.studies):
            watch.rows.add(row)
        for row in noise_rows(summarize(read_rows(watch.out), config.search.metric)):
            watch.rows.add(row)
        report.write(watch.out, config, watch.screen.say)
    except OSError as error:
        watch.broken(error)


def test_winners(watch: Watch, request: cluster.Resources) -> None:
    """Score the winners on held-out images: their finished runs are resumed, which only tests."""
    import ray

    root = str(watch.out.resolve())

    @ray.remote(num_cpus=request.cpus, num_gpus=request.gpus)
    def last_row(task: dict[str, Any]) -> Row:
        return list(trial_rows(root, request.cpus, task))[-1]

    winners = findings.winners(watch.studies)
    for winner, task in [(w, last_row.remote(w.task)) for w in winners]:
        try:
            watch.rows.add({**ray.get(task), "params": dict(winner.params)})
        except ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[-1]
            watch.screen.say(f"{winner.name} could not be tested ({reason}); --resume {watch.out} tries again")


def drop_losers(watch: Watch) -> None:
    """Keep the checkpoints of each arm's best, of what was repeated, and of trials that can go on."""
    studies = watch.studies
    kept = {findings.chosen(studies, arm) for arm in studies.search_arms()} | {arm.confirms for arm in studies.studies}
    for trial in (t for arm in studies.search_arms() for t in studies.ranked(arm)):
        if trial.user_attrs["run"] not in kept:
            places.remove(checkpoints.folder_of(studies.config, watch.out, trial.user_attrs["run"]))


def exit_code(watch: Watch, started: float) -> int:
    say, again = watch.screen.say, f"python -m cid_ray.tune --resume {watch.out}"
    if watch.reason:
        say(f"stopped: {watch.reason}. Then go on with: {again}")
        return 1
    ended = watch.studies.ended().values()
    say(f"{len(ended)} of {watch.studies.total()} trials ended in {time.monotonic() - started:.0f} s")
    if watch.interrupts:
        say(f"continue with: {again}")
        return 130
    if ended and all(state.name == "FAIL" for state in ended):
        say(f"every trial failed; the reasons are in {watch.out}/rows.jsonl")
        return 1
    if len(ended) < watch.studies.total():
        say(f"the time budget is used up; continue with: {again}")
    return 0


if __name__ == "__main__":
    cli.run(main)
