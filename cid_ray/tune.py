"""`python -m cid_ray.tune`: search CID's settings at several label ratios, beside three baselines, with one Tune run.

One Optuna study per ratio, in one journal, suggests and prunes; Ray Tune places the trials. With no options it runs
search_spaces/demo.yaml on the generated data set. It ends in a table, record rows and report/index.html.
"""

from __future__ import annotations

import contextlib
import functools
import signal
import time
from collections.abc import Iterator
from typing import Any

from cid_ray import beside, cli, closing, places, restarts
from cid_ray.config import Config, InputError, override
from cid_ray.results.pulse import Pulse
from cid_ray.results.record import Row
from cid_ray.run import cluster, demand
from cid_ray.run.display import Display
from cid_ray.run.fleet import Resources
from cid_ray.search import findings, tracking
from cid_ray.search.arms import Arm, check_search, trial_config
from cid_ray.search.journal import Hold
from cid_ray.search.metrics import Metrics
from cid_ray.search.studies import Studies
from cid_ray.search.watch import Watch
from cid_ray.terminal import Terminal

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
    config, home = cli.open_run(args, "tune", None if args.config or args.resume else cli.shipped("demo.yaml"))
    config, told = grow(config, args)
    space = check_search(config)
    tracking.check(config, home)
    counts, contents, uncached = check_data(config)
    about = {"run": home.own_name, "ratio": ", ".join(counts.values())}
    cluster.start_ray(args.loudness > 0, {**about, "fingerprint": config.fingerprint(*contents.values())})
    request, at_once = check_cluster(config)
    if not args.resume:
        cli.claim(config, home)
    deadline = started + args.budget - CLOSING_SECONDS if args.budget else None
    with home, Hold(home.here) as hold:
        studies = Studies(home, config, space, contents)
        if args.resume:
            cli.claim(config, home)  # only now: a changed search has been refused
        with Display(home.here, studies.total(), "trial", args.loudness) as display:
            watch = Watch(home, hold, studies, display, deadline)
            watch.listeners += [Metrics(home.here, studies, deadline), Terminal(display, studies, counts), Pulse(watch)]
            watch.listeners += tracking.start(home, studies)
            announce(watch, counts, request, at_once, told, uncached)
            with beside.dashboard(args.dashboard, home.name, display.say), interruptible(watch):
                search(watch, request, at_once)
                closing.close(watch, request, trial_rows)
            watch.tell("close")
            return exit_code(watch, started)


def options() -> cli.Parser:
    options = cli.parser("tune", __doc__ or "", EXAMPLES)
    cli.add_config_options(options, changeable=True)
    cli.add_screen_options(options)
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
    points, told = findings.warm_start(args.warm_start, check_search(config), config.search.metric)
    return override(tree, {"search.start": [*points, *config.search.start]}), told


def check_data(config: Config) -> tuple[dict[str, str], dict[str, str], str]:
    """Everything that data and model can get wrong, before Ray starts.

    Ratio -> "1/16 (23)"; hashes of both; what of the images the cache has no room for, in words.
    """
    from cid_ray.core.model import Segmenter
    from cid_ray.data.cache import left_out
    from cid_ray.data.splits import make_split
    from cid_ray.data.table import open_table
    from cid_ray.run.build import check, weights_hash

    table = open_table(config.data.table)
    counts = {}
    for ratio in config.search.ratios:
        for method in (*config.search.baselines, "cid"):
            arm = trial_config(config, Arm(ratio, method), {})
            split = make_split(table, arm.data)
            check(arm, table, split)
        counts[ratio] = split.name
    Segmenter(config.model, table.num_classes)
    weights = weights_hash(config) or config.model.weights
    uncached = left_out(table, config.data.image_size, config.data.cache_mb)
    return counts, {"the data set": table.fingerprint, "the weights file": weights}, uncached


def check_cluster(config: Config) -> tuple[Resources, int]:
    """What one trial's process asks for, and how many run at once; InputError when not even one can ever be placed."""
    group, at_once = demand.trials(config, cluster.fleet())
    return Resources(demand.DRIVER_CPUS, 0) if config.scale.most > 1 else group.each, at_once


def trial_rows(root: str, cpus: float, task: dict[str, Any], lasting: bool = False) -> Iterator[Row]:
    """The rows of one trial: the training loop itself, in this process, or Ray Train's workers running it.

    A `lasting` process runs one trial after another: it keeps its CPUs and its workers.
    """
    config = Config.model_validate_json(task["config"])
    if config.scale.most > 1:
        from cid_ray.run.workers import train_on_workers

        yield from train_on_workers(config, root, task["name"], task["test"], keep=lasting)
        return
    from cid_ray.data.batches import kept_reader
    from cid_ray.run.loop import train
    from cid_ray.run.pinning import pin
    from cid_ray.run.run import Job

    if lasting:
        pin(int(cpus))  # shares of a CPU are not pinned
    job = Job(config, root, task["name"], threads=max(1, int(cpus)), test=task["test"])
    job.reader = kept_reader(config.data, config.data.cache_mb)
    yield from train(job)


@contextlib.contextmanager
def interruptible(watch: Watch) -> Iterator[None]:
    """From here on Ctrl-C and SIGTERM are the search's business; set after Ray has set its own."""
    former = [signal.signal(s, f) for s, f in ((signal.SIGINT, watch.interrupt), (signal.SIGTERM, watch.terminate))]
    try:
        yield
    finally:
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), former, strict=True):
            signal.signal(number, handler)


# ---- the phases ----


def announce(watch: Watch, counts: dict[str, str], request: Resources, at_once: int, *told: str) -> None:
    say, search, studies = watch.screen.say, watch.studies.config.search, watch.studies
    say(f"run folder {watch.home}; stop and go on with: python -m cid_ray.tune --resume {watch.home}")
    arms = {arm.method: studies.wanted(arm) for arm in studies.search_arms()}
    each = ", ".join(f"{method} {count}" for method, count in arms.items())
    say(f"ratios {', '.join(counts.values())}; trials at each: {each}")
    if studies.shared:
        say(
            f"studies {studies.prefix.rstrip(': ')!r} in {studies.config.study.storage}, shared with whoever names them"
        )
    untuned = [m for m in search.baselines if search.baseline_trials > 1 and arms[m] == 1]
    if untuned:
        say(f"run once, because search.space has no setting of their own (such as optim.lr): {', '.join(untuned)}")
    if search.confirm.repeats:
        say(f"then the baselines and the best {search.confirm.top} CID again, on {search.confirm.repeats} fresh seeds")
    say(f"{search.sampler.name} suggests, {search.pruner.name} prunes; {at_once} trials at once, each {request}")
    for line in filter(None, told):
        say(line)
    again = len(studies.pending)
    if watch.ended_before or again:
        say(f"{watch.ended_before} of {watch.total} trials are done, {again} interrupted ones go on")


def search(watch: Watch, request: Resources, at_once: int) -> None:
    from cid_ray.search.tuning import BROKEN, run_trials

    source = functools.partial(trial_rows, str(places.absolute(watch.home.name)), request.cpus, lasting=True)
    try:
        run_trials(watch.studies, watch, source, request.bundle(), at_once)
    except BROKEN as error:
        watch.broken(error)


def exit_code(watch: Watch, started: float) -> int:
    say, again = functools.partial(watch.screen.say, always=True), f"python -m cid_ray.tune --resume {watch.home}"
    if watch.reason:
        say(f"stopped: {watch.reason}. Then go on with: {again}")
        return 1
    ended = watch.studies.ended().values()
    say(f"{len(ended)} of {watch.studies.total()} trials ended in {time.monotonic() - started:.0f} s")
    if watch.interrupts:
        say(f"continue with: {again}")
        return 130
    if ended and all(state.name == "FAIL" for state in ended):
        say(f"every trial failed; the reasons are in {watch.home}/rows.jsonl")
        return 1
    if elsewhere := watch.studies.elsewhere():
        say(f"{elsewhere} trials still run on other machines; when they have ended, get all of them with: {again}")
        return 0
    if len(ended) < watch.studies.total():
        say(f"the time budget is used up; continue with: {again}")
    return 0


if __name__ == "__main__":
    cli.run(main)
