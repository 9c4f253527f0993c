"""`python -m cid_ray.train`: one config at one label ratio, in one process or on N workers with Ray Train.

One process needs no Ray. With `scale.workers=N` the same loop runs in N workers (gloo on CPUs, nccl on GPUs) and Ray
Data shards the unlabeled pool over them; batch sizes and the learning rate are global, so N changes neither.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

from cid_ray import checkpoints, cli, restarts
from cid_ray.config import Config, InputError, changes, load
from cid_ray.home import Home
from cid_ray.places import Name
from cid_ray.results.record import Row, Rows
from cid_ray.run.board import WorkersLost
from cid_ray.run.display import Display, percent

EXAMPLES = """
  python -m cid_ray.train --set data.table=demo --set data.ratio=1/8 --set method=supervised
  python -m cid_ray.train --config my.yaml --set scale.workers=4 --out runs/mine
  python -m cid_ray.train --config my.yaml --out runs/mine --restarts 10
  python -m cid_ray.train --resume runs/mine --set train.on_nan=skip
"""


def main(argv: list[str]) -> int:
    options = cli.parser("train", __doc__ or "", EXAMPLES)
    cli.add_config_options(options, changeable=True)
    cli.add_screen_options(options)
    restarts.add_option(options)
    args = options.parse_args(argv)
    if args.restarts:
        return restarts.guard("cid_ray.train", argv, args)
    config, home = cli.open_run(args, "train")
    if args.resume:
        same_run(home, config)
    told = prepare(config, home, verbose=args.loudness > 0)
    cli.claim(config, home)
    rows = Rows(home.here)
    with home, Display(home.here, config.train.steps, loudness=args.loudness) as display:
        for line in (*told, f"run folder {home}"):
            display.say(line)
        try:
            for row in run(config, home.name):
                display.row(row)
                if row["event"] != "progress":
                    rows.add(row)
                if row["event"] == "final":
                    show_final(display, row, config, home)
                if row["event"] != "progress":
                    home.send()
        except KeyboardInterrupt:
            display.say(f"interrupted; continue with: python -m cid_ray.train --resume {home}", True)
            return 130
        except (FloatingPointError, WorkersLost, OSError) as error:
            again = f"continue from the last checkpoint: python -m cid_ray.train --resume {home}"
            display.say(f"failed: {error}; {again}", True)
            return 1
    return 0


def same_run(home: Home, config: Config) -> None:
    """InputError, naming them, when values that change results are not those of the folder's run."""
    changed = changes(load(home.here / "config.yaml").what_counts(), config.what_counts())
    if changed:
        raise InputError(f"--resume {home} goes on with the same run: {changed}; choose another --out for that")


def prepare(config: Config, home: Home, verbose: bool) -> list[str]:
    """Every error that can be known before training: table, split, model, weights, room for the workers.

    Returns what is to be told of them.
    """
    from cid_ray.core.model import Segmenter
    from cid_ray.data.cache import left_out
    from cid_ray.data.splits import make_split
    from cid_ray.data.table import open_table
    from cid_ray.run.build import check, identity
    from cid_ray.run.device import Device

    table = open_table(config.data.table)
    split = make_split(table, config.data)
    check(config, table, split)
    Segmenter(config.model, table.num_classes)
    fingerprint = identity(config, table, split)["fingerprint"]
    uncached = left_out(table, config.data.image_size, config.data.cache_mb)
    told = [uncached] if uncached else []
    if config.scale.most > 1:
        from cid_ray.run.cluster import start_ray
        from cid_ray.run.workers import check_workers

        start_ray(verbose, {"run": home.own_name, "ratio": split.name, "fingerprint": fingerprint})
        told.append(f"each worker gets {check_workers(config)}; {config.scale.data_cpus:g} CPU stay free for Ray Data")
    device = Device.choose(config.train)
    return [
        *told,
        f"{config.method} at {split.name}, pool {len(split.pool)}, split {split.split_id}; {table.num_classes} classes",
        f"device: {device}; {config.scale} worker(s); fingerprint {fingerprint}",
    ]


def run(config: Config, root: Name) -> Iterator[Row]:
    if config.scale.most > 1:
        from cid_ray.run.workers import train_on_workers

        return train_on_workers(config, root)
    from cid_ray.run.loop import train
    from cid_ray.run.run import Job

    return train(Job(config, root))


def show_final(display: Display, row: Row, config: Config, home: Home) -> None:
    """Per-class IoU of teacher and student, last step and best-on-val step, labeled as such."""
    split, say = row["held_out"], functools.partial(display.say, always=True)
    for label, prefix in (("last step", ""), (f"best-on-val step {row['best/step']}", "best/")):
        say(
            f"{label}: val mIoU teacher {percent(row[prefix + 'val/miou_teacher'])} student "
            f"{percent(row[prefix + 'val/miou'])}; {split} mIoU teacher {percent(row[prefix + 'test/miou_teacher'])} "
            f"student {percent(row[prefix + 'test/miou'])}"
        )
    say(f"{'class':<20} {split} IoU, last step: teacher  student")
    for name, teacher in row["test/iou_teacher"].items():
        say(f"{name:<20} {percent(teacher):>31} {percent(row['test/iou'][name]):>8}")
    if row["test/absent"]:
        say(f"left out of mIoU, no ground truth in {split}: {', '.join(row['test/absent'])}")
    weights = checkpoints.folder_of(config, home.name, row["run"])
    say(f"wrote {home}: rows.jsonl, log.txt; {weights}: last.pt, best.pt")


if __name__ == "__main__":
    cli.run(main)
