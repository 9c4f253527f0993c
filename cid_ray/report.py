"""`python -m cid_ray.report`: rebuild a run's table and page from its records, or compare several.

It needs neither torch nor ray.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cid_ray.cli.parser import run_command
from cid_ray.cli.printing import say
from cid_ray.cli.report_options import compared_metric, parse_arguments
from cid_ray.cli.run_options import config_file
from cid_ray.config import InputError, load_config
from cid_ray.resources.costs import with_hour
from cid_ray.results.compact_records import CompactRecordReader
from cid_ray.results.comparison_page import PAGE_FILE, write_comparison
from cid_ray.results.comparison_text import terminal_text
from cid_ray.results.ladder_page import write_ladder_report
from cid_ray.results.recorded_run import names_of, read_run
from cid_ray.results.records import RECORDS_FILE, read_records
from cid_ray.results.run_comparison import compare
from cid_ray.results.run_kind import ladder_in
from cid_ray.results.text_report import write_report
from cid_ray.storage import paths
from cid_ray.storage.run_config import load_run_config
from cid_ray.storage.run_dir import CONFIG_FILE, RunDir


def main(argv: list[str]) -> int:
    args = parse_arguments(argv, __doc__ or "")
    if len(args.runs) > 1:
        return compare_folders(args)
    with RunDir(args.runs[0]) as run_dir:
        run_dir.pull()
        run_dir.pull("samples", "pool")
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
        out = Path(args.out) if args.out else None
        priced = with_hour(config)
        if config.prices.machine and priced.prices.hour:
            say(f"a trial's part of {config.prices.machine}: ${priced.prices.hour:.4g} an hour")
        write_report(run_dir, priced, reader.read(), say, out, args.target)
        run_dir.push()
    return 0


def compare_folders(args: argparse.Namespace) -> int:
    """Print what differs between the runs, and write it with --out."""
    metric = compared_metric(args)
    runs = []
    for folder, name in zip(args.runs, names_of(args.runs), strict=True):
        with RunDir(folder) as run_dir:
            run_dir.pull()
            reader = CompactRecordReader(run_dir.local)
            run = read_run(run_dir, name, reader, metric)
            from cid_ray.search.consistency import check_run_folder  # loads Optuna

            for note in check_run_folder(run_dir, reader, run.config.search):
                say(f"warning: {note}")
        runs.append(run)
    comparison = compare(runs)
    say(terminal_text(comparison))
    if args.out:
        write_comparison(comparison, args.out)
        say(f"wrote {paths.join(args.out, PAGE_FILE)}")
    return 0


if __name__ == "__main__":
    run_command(main)
