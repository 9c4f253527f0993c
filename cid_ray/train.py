"""`python -m cid_ray.train`: train one config at one label ratio, in one process or on N workers.

One process needs no Ray. With `distributed.num_workers=N` the same loop runs in N Ray Train workers
(gloo on CPUs, nccl on GPUs), and Ray Data shards the unlabeled pool over them. Batch sizes and
learning rate are global, so N changes neither.
"""

from __future__ import annotations

if __name__ == "__main__":
    from cid_ray.cli.signals import exit_on_signals

    exit_on_signals()  # the imports below take seconds

from cid_ray.cli import parser, run_options, supervisor
from cid_ray.cli.console import RunConsole
from cid_ray.cli.signals import INTERRUPTED, stop_signals
from cid_ray.config import Config
from cid_ray.results.records import RecordWriter, of_event, read_records
from cid_ray.storage.checkpoint_paths import checkpoint_dir
from cid_ray.storage.run_config import load_run_config, write_config
from cid_ray.storage.run_dir import RunDir
from cid_ray.training.launch import train
from cid_ray.training.mailbox import WorkersLost

EXAMPLES = """
  python -m cid_ray.train --set data.table=demo --set data.ratio=1/8 --set method=supervised
  python -m cid_ray.train --config my.yaml --set distributed.num_workers=4 --out runs/mine
  python -m cid_ray.train --config my.yaml --out runs/mine --restarts 10
  python -m cid_ray.train --resume runs/mine --set train.on_nan=skip
"""


def main(argv: list[str]) -> int:
    options = parser.make_parser("train", __doc__ or "", EXAMPLES)
    parser.add_config_options(options)
    parser.add_verbosity_options(options)
    supervisor.add_restarts_option(options)
    args = options.parse_args(argv)
    if args.restarts:
        return supervisor.supervise("cid_ray.train", argv, args)
    config, run_dir = run_options.open_run(args, "train")
    messages = check(config, run_dir, bool(args.resume), verbose=args.verbosity > parser.NORMAL)
    with run_dir:
        if args.resume:
            run_dir.lock()
        else:
            write_config(config, run_dir)
        return run(config, run_dir, messages, args.verbosity)


def run(config: Config, run_dir: RunDir, messages: list[str], verbosity: int) -> int:
    """Train with a progress bar; returns the exit code."""
    with RunConsole(run_dir.local, config.train.steps, verbosity=verbosity) as console:
        for line in (*messages, f"run folder {run_dir}"):
            console.log(line)
        resume = f"python -m cid_ray.train --resume {run_dir}"
        try:
            with stop_signals(resume, console.log):
                train_and_record(config, run_dir, console)
        except KeyboardInterrupt:
            console.log(f"interrupted; continue with: {resume}", always=True)
            return INTERRUPTED
        except (FloatingPointError, WorkersLost, OSError) as error:
            text = f"failed: {error}; continue from the last checkpoint: {resume}"
            console.log(text, always=True)
            return 1
    return 0


def check(config: Config, run_dir: RunDir, resumed: bool, verbose: bool) -> list[str]:
    """Find every error that can be known before training; returns what the user should know."""
    # Imported late: torch takes seconds, which `--help` and wrong options need not wait for.
    from cid_ray.training import preflight

    if resumed:
        preflight.check_resumed_config(config, load_run_config(run_dir), run_dir.uri)
        preflight.check_resumed_records(config, run_dir)
    found = preflight.check_data(config)
    workers = preflight.check_workers(config, found, run_dir.basename, verbose)
    return [*found.messages, *workers, *preflight.describe_run(config, found)]


def train_and_record(config: Config, run_dir: RunDir, console: RunConsole) -> None:
    from cid_ray.training.final_scores import describe_scores

    writer = RecordWriter(run_dir.local)
    recorded = {record["step"] for record in of_event(read_records(run_dir.local), "rung")}
    for number, record in enumerate(train(config, run_dir.uri)):
        if number == 0:  # only now is it known that a resumed run's checkpoint is one of this run
            write_config(config, run_dir)
        console.show_record(record)
        if record["event"] == "progress":  # only shown
            continue
        lost = [s for s in config.train.rung_steps if s < record["step"] and s not in recorded]
        if lost:
            console.log(f"warning: {writer.path} lacks the rungs at steps {lost}", always=True)
        recorded.update(lost, [record["step"]])
        writer.append(record)
        if record["event"] == "final":
            for line in describe_scores(record):
                console.log(line, always=True)
            weights = checkpoint_dir(config, run_dir.uri, record["run"])
            files = f"records.jsonl, log.txt; {weights}: last.pt, best.pt"
            console.log(f"wrote {run_dir}: {files}", always=True)
        run_dir.push()


if __name__ == "__main__":
    parser.run_command(main)
