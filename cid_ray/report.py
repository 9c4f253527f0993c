"""`python -m cid_ray.report`: rebuild a run's table and page from its records.

It needs neither torch nor ray.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cid_ray.cli.parser import add_config_options, make_parser, run_command
from cid_ray.cli.printing import say
from cid_ray.cli.run_options import config_file
from cid_ray.config import InputError, load_config
from cid_ray.results.compact_records import CompactRecordReader
from cid_ray.results.ladder_page import write_ladder_report
from cid_ray.results.records import RECORDS_FILE, read_records
from cid_ray.results.run_kind import ladder_in
from cid_ray.results.text_report import write_report
from cid_ray.storage.run_config import load_run_config
from cid_ray.storage.run_dir import CONFIG_FILE, RunDir

EXAMPLES = """
  python -m cid_ray.report runs/camvid-20260101-120000
  python -m cid_ray.report runs/camvid-20260101-120000 --target 60 --set prices.label=2
  python -m cid_ray.report runs/camvid-20260101-120000 --set search.metric=val/miou --out page
"""


def main(argv: list[str]) -> int:
    parser = make_parser("report", __doc__ or "", EXAMPLES)
    parser.add_argument("run", metavar="RUN", help="a run folder")
    add_config_options(parser, "where index.html is written (default RUN/report)", resume=False)
    parser.add_argument(
        "--target", type=percent, metavar="MIOU", help="say how many labels this test mIoU needs"
    )
    args = parser.parse_args(argv)
    with RunDir(args.run) as run_dir:
        run_dir.pull()
        run_dir.pull("samples")
        if not (run_dir.local / RECORDS_FILE).is_file():
            raise InputError(
                f"{run_dir} is not a run folder: it has no {RECORDS_FILE}; if that file was lost, "
                f"`python -m cid_ray.repair {run_dir}` makes the others agree"
            )
        own_config = run_dir.local / CONFIG_FILE
        if own_config.exists() and not args.config:
            load_run_config(run_dir)  # a part of it would change what is shown
        config = load_config(
            config_file(args.config) or (own_config if own_config.exists() else None), args.changes
        )
        if ladder_in(run_dir.local):
            ladder = read_records(run_dir.local)
            write_ladder_report(run_dir.local, ladder, say, Path(args.out) if args.out else None)
            run_dir.push()
            return 0
        reader = CompactRecordReader(run_dir.local)
        from cid_ray.search.consistency import check_run_folder  # loads Optuna

        for note in check_run_folder(run_dir, reader, config.search):
            say(f"warning: {note}")
        write_report(
            run_dir, config, reader.read(), say, Path(args.out) if args.out else None, args.target
        )
        run_dir.push()
    return 0


def percent(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 100:
        raise argparse.ArgumentTypeError(f"{text} must be a mIoU in percent, between 0 and 100")
    return value


if __name__ == "__main__":
    run_command(main)
