"""`python -m cid_ray.tune`: search CID's settings at several label ratios, beside three baselines, with one Tune run.

One Optuna study per ratio, in one journal, suggests and prunes; Ray Tune places the trials. With no options it runs
search_spaces/demo.yaml on the generated data set. It ends in a table, record rows and report/index.html.
"""

from __future__ import annotations

import functools
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cid_ray import cli, report
from cid_ray.config import Config, InputError
from cid_ray.results.record import Row, Rows
from cid_ray.run import cluster
from cid_ray.run.display import Display, percent
from cid_ray.search.studies import Arm, Assignment, Studies, check_search, trial_config

EXAMPLES = """
  python -m cid_ray.tune
  python -m cid_ray.tune --config search_spaces/camvid.yaml --set data.table=tables/camvid --trials 20
  python -m cid_ray.tune --config my.yaml --budget 3600
  python -m cid_ray.tune --resume runs/camvid-20260101-120000
"""
CLOSING_SECONDS = 15.0  # of a --budget: kept for the page, beside what the baselines' tests were seen to take


def main(argv: list[str]) -> int:
    options = cli.parser("tune", __doc__ or "", EXAMPLES)
    cli.add_config_options(options)
    options.add_argument("--trials", type=int, metavar="N", help="CID trials per ratio (search.trials)")
    options.add_argument("--budget", type=float, metavar="SECONDS", help="end, report included, in about this time")
    args = options.parse_args(argv)
    if args.trials is not None:
        args.changes.append(f"search.trials={args.trials}")
    if args.budget is not None and args.budget <= 0:
        raise InputError(f"--budget is {args.budget}, must be a positive number of seconds")
    started = time.monotonic()
    config, out = cli.open_run(args, "tune", None if args.config or args.resume else cli.shipped("demo.yaml"))
    space = check_search(config)
    counts = check_data(config)
    cluster.start_ray()
    request, at_once = check_cluster(config)
    cli.claim(config, out)
    studies = Studies(out / "study.journal", config, space)
    with Search(
        config, out, studies, deadline=started + args.budget - CLOSING_SECONDS if args.budget else None
    ) as search:
        search.announce(counts, request, at_once)
        search.run(request, at_once)
        search.test_winners(request)
        search.record_search()
        report.write(out, config, search.display.say)
        return search.exit_code(started)


def check_data(config: Config) -> dict[str, str]:
    """Everything that data and model can get wrong, for every arm, before Ray starts; ratio -> "1/16 (23)"."""
    from cid_ray.core.model import Segmenter
    from cid_ray.data.splits import make_split
    from cid_ray.data.table import open_table
    from cid_ray.run.run import check

    table = open_table(config.data.table)
    counts = {}
    for ratio in config.search.ratios:
        for method in (*config.search.baselines, "cid"):
            arm = trial_config(config, Arm(ratio, method), {})
            split = make_split(table, arm.data)
            check(arm, table, split)
        counts[ratio] = split.name
    Segmenter(config.model, table.num_classes)
    return counts


def check_cluster(config: Config) -> tuple[cluster.Resources, int]:
    """What one trial asks for, and how many run at once; InputError when not even one can ever be placed."""
    search = config.search
    if config.scale.workers > 1:
        from cid_ray.run.workers import check_workers

        worker = check_workers(config)
        total = sum(node.cpus for node in cluster.nodes())
        fit = int(total // (config.scale.workers * worker.cpus + config.scale.data_cpus + 0.01))
        return cluster.Resources(0.01, 0), max(1, min(fit, search.concurrency or fit))
    gpus = (1.0 if cluster.has_gpus() else 0.0) if search.gpus_per_trial is None else search.gpus_per_trial
    request = cluster.Resources(search.cpus_per_trial, gpus)
    cluster.check_placeable(
        request, 1, "a trial", "Lower search.cpus_per_trial or search.gpus_per_trial, or add nodes."
    )
    fit = cluster.places(request)
    return request, min(fit, search.concurrency or fit)


def trial_rows(root: str, threads: int, task: dict[str, Any], test: bool = False) -> Iterator[Row]:
    """The rows of one trial, in a Tune actor: the training loop itself, or Ray Train's workers running it."""
    config = Config.model_validate_json(task["config"])
    test = test or config.method != "cid"  # of the CID trials only winners are tested, at the end
    if config.scale.workers > 1:
        from cid_ray.run.workers import train_on_workers

        yield from train_on_workers(config, Path(root), task["name"], test)
        return
    from cid_ray.data.batches import kept_reader
    from cid_ray.run.loop import train
    from cid_ray.run.run import Job

    yield from train(
        Job(
            config,
            Path(root),
            task["name"],
            threads=threads,
            test=test,
            reader=kept_reader(config.data, config.data.cache_mb),
        )
    )


class Search:
    """A search while it runs: what is shown, what is recorded, and when it ends."""

    def __init__(self, config: Config, out: Path, studies: Studies, deadline: float | None):
        self.config, self.out, self.studies, self.deadline = config, out, studies, deadline
        self.rows, self.begun_at, self.interrupts = Rows(out), dict[str, float](), 0
        self.total = sum(studies.wanted(arm) for arm in studies.studies)
        self.ended_before = self.count_ended()
        self.started, self.test_seconds = time.monotonic(), 0.0
        self.display = Display(out, self.total, "trial")

    def __enter__(self) -> Search:
        self.display.__enter__()
        self.former = signal.signal(signal.SIGINT, self.interrupt)
        return self

    def __exit__(self, *problem: Any) -> None:
        signal.signal(signal.SIGINT, self.former)
        self.display.__exit__()

    def interrupt(self, *_: Any) -> None:
        """Ctrl-C once: stop the trials and report; twice: leave at once."""
        self.interrupts += 1
        if self.interrupts > 1:
            os._exit(130)
        self.display.say("interrupted: stopping the trials and writing the report (Ctrl-C again leaves at once)")

    # ---- what run_trials tells (search.tuning.Progress) ----

    def stopping(self) -> bool:
        late = self.deadline is not None and time.monotonic() + self.test_seconds > self.deadline
        return bool(self.interrupts) or late

    def begun(self, assignment: Assignment, resumed: bool) -> None:
        self.begun_at[assignment.name] = time.monotonic()
        shown = ", ".join(f"{k.split('.')[-1]}={_short(v)}" for k, v in assignment.params.items())
        self.display.say(f"{assignment.name}: {'resumed' if resumed else 'begun'}  {shown}")

    def row(self, row: Row) -> None:
        if row.get("warning"):
            self.display.say(f"{row['run']}: warning: {row['warning']}")
        if row["event"] == "progress":
            return
        if "test_seconds" in row:
            self.test_seconds = max(self.test_seconds, row["test_seconds"])
        live = self.studies.live.get(row["run"])
        self.rows.add({**row, "params": dict(live.params) if live else {}})
        if row["event"] == "rung":
            self.display.say(
                f"{row['run']}: step {row['step']}/{row['steps']}  loss {row['losses']['total']:.3f}  val mIoU "
                f"teacher {percent(row['val/miou_teacher'])} student {percent(row['val/miou'])}  "
                f"{row['images_per_s']:.0f} images/s"
            )

    def ended(self, name: str, how: str, reason: str = "") -> None:
        done, spent = self.count_ended(), time.monotonic() - self.started
        left = spent / max(1, done - self.ended_before) * (self.total - done)
        self.display.move(done, f"{name} {how}")
        self.display.say(
            f"{name}: {how}{': ' + reason if reason else ''}  [{done}/{self.total} trials, ETA {left:.0f} s]"
        )
        self.rows.add({"event": "trial", "run": name, "state": how, "reason": reason})
        if how == "pruned":
            shutil.rmtree(self.out / "checkpoints" / name, ignore_errors=True)

    def count_ended(self) -> int:
        states = self.studies.states().values()
        return sum(n for counts in states for s, n in counts.items() if s in ("COMPLETE", "PRUNED", "FAIL"))

    # ---- the phases ----

    def announce(self, counts: dict[str, str], request: cluster.Resources, at_once: int) -> None:
        say, search = self.display.say, self.config.search
        say(f"run folder {self.out}; stop and go on with: python -m cid_ray.tune --resume {self.out}")
        baselines = ", ".join(search.baselines) or "none"
        say(f"ratios {', '.join(counts.values())}; {search.trials} CID trials each, baselines {baselines}")
        say(f"{search.sampler.name} suggests, {search.pruner.name} prunes; {at_once} trials at once, each {request}")
        if self.ended_before:
            again = len(self.studies.pending)
            say(f"{self.ended_before} of {self.total} trials are done, {again} interrupted ones go on")

    def run(self, request: cluster.Resources, at_once: int) -> None:
        from cid_ray.search.tuning import run_trials

        source = functools.partial(trial_rows, str(self.out.resolve()), max(1, int(request.cpus)))
        run_trials(
            self.studies, self, source, self.out / "ray_tune", request.bundle(), at_once,
            reuse=self.config.scale.workers == 1,
        )  # fmt: skip

    def winners(self) -> list[Assignment]:
        """The best CID trial of full length at each ratio, by val at its last step."""
        found = []
        for arm in (arm for arm in self.studies.studies if arm.method == "cid"):
            best = self.studies.best(arm)
            if best:
                name, searched, _ = best
                params = {**self.studies.space.fixed, **searched}
                found.append(Assignment(arm, name, trial_config(self.config, arm, params), None, params))
        return found

    def test_winners(self, request: cluster.Resources) -> None:
        """Score the winners on test: their finished runs are resumed, which only tests."""
        import ray

        winners = self.winners()
        root, threads = str(self.out.resolve()), max(1, int(request.cpus))

        @ray.remote(num_cpus=request.cpus, num_gpus=request.gpus)
        def last_row(task: dict[str, Any]) -> Row:
            return list(trial_rows(root, threads, task, test=True))[-1]

        tasks = [last_row.remote({"name": w.name, "config": w.config.model_dump_json()}) for w in winners]
        for winner, task in zip(winners, tasks, strict=True):
            try:
                self.rows.add({**ray.get(task), "params": dict(winner.params)})
            except ray.exceptions.RayError as error:
                reason = str(error).strip().splitlines()[-1]
                self.display.say(f"{winner.name} could not be tested ({reason}); --resume {self.out} tries again")

    def drop_losers(self) -> None:
        """Keep the checkpoints of winners, baselines and trials that can go on; the others are finished and beaten."""
        for arm in self.studies.studies:
            best = self.studies.best(arm)
            for name in self.studies.ended_runs(arm):
                if arm.method == "cid" and best and name != best[0]:
                    shutil.rmtree(self.out / "checkpoints" / name, ignore_errors=True)

    def record_search(self) -> None:
        """A row per ratio: how the search went, which trial won, what mattered."""
        for arm in (arm for arm in self.studies.studies if arm.method == "cid"):
            best = self.studies.best(arm)
            row = {
                "event": "search",
                "run": arm.study_name,
                "ratio": arm.ratio,
                "states": dict(self.studies.states()[arm]),
                "wanted": self.studies.wanted(arm),
                "best": best[0] if best else None,
                "metric": self.config.search.metric,
                "importances": self.studies.importances(arm),
                "importance_method": "PED-ANOVA over trials of full length",
            }
            self.rows.add(row)

    def exit_code(self, started: float) -> int:
        done = self.count_ended()
        self.display.say(f"{done} of {self.total} trials ended in {time.monotonic() - started:.0f} s")
        if self.interrupts:
            self.display.say(f"continue with: python -m cid_ray.tune --resume {self.out}")
            return 130
        failed = sum(counts["FAIL"] for counts in self.studies.states().values())
        if failed and failed == done:
            self.display.say(f"every trial failed; the reasons are in {self.out}/rows.jsonl")
            return 1
        if done < self.total:
            self.display.say(f"the time budget is used up; continue with: python -m cid_ray.tune --resume {self.out}")
        return 0


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    cli.run(main)
