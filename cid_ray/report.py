"""`python -m cid_ray.report`: rebuild a run's table and page from its rows; needs neither torch nor ray."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cid_ray import checkpoints, cli, places
from cid_ray.config import Config, InputError, load
from cid_ray.home import Home
from cid_ray.results.page import gain_text, pareto_lines, repeats_text, write_page
from cid_ray.results.record import read_rows
from cid_ray.results.summary import RatioSummary, summarize, table
from cid_ray.results.verdict import verdict

EXAMPLES = """
  python -m cid_ray.report runs/camvid-20260101-120000
  python -m cid_ray.report runs/camvid-20260101-120000 --set search.metric=val/miou --out pages/students
"""


def main(argv: list[str]) -> int:
    options = cli.parser("report", __doc__ or "", EXAMPLES)
    options.add_argument("run", metavar="RUN", help="a run's folder")
    cli.add_config_options(options, "where index.html is written (default RUN/report)", resume=False)
    args = options.parse_args(argv)
    with Home(args.run) as home:
        home.fetch()
        home.fetch("samples")
        if not (home.here / "rows.jsonl").is_file():
            raise InputError(f"{home} is not a run's folder: it has no rows.jsonl")
        kept = home.here / "config.yaml"
        config = load(args.config or (kept if kept.exists() else None), args.changes)
        write(home, config, print, Path(args.out) if args.out else None)
        home.send()
    return 0


def write(home: Home, config: Config, say: Callable[[str], None], out: Path | None = None) -> None:
    """Print the table and the verdicts, write index.html and report.md, and say where."""
    rows = read_rows(home.here)
    summaries = summarize(rows, config.search.metric)
    say(as_text(summaries))
    for summary in summaries:
        say(f"{summary.name}: {verdict(summary)}")
        params = summary.finals.get("cid", {}).get("params", {})
        if params:
            shown = ", ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in params.items())
            say(f"  best CID settings: {shown}")
            say(f"  its weights: {checkpoints.folder_of(config, home.name, summary.finals['cid']['run'])}/last.pt")
    for point in pareto_lines(summaries):
        scored = f"{point['value']:.2f} mIoU at {point['cost']} {point['of']}"
        say(f"not beaten in both: {point['ratio']}  {scored}  {point['run']}")
    write_page(home.here, out or home.here / "report", rows, config)
    say(f"wrote {out or places.join(home.name, 'report')}/index.html")


def as_text(summaries: list[RatioSummary]) -> str:
    repeated = any(summary.confirmed for summary in summaries)
    middle = ("test mIoU, repeats", "over supervised") if repeated else ("over supervised",)
    grid = Table(box=None, pad_edge=False)
    for name in ("labels", "method", "val mIoU", "test mIoU", *middle, "test at best-on-val"):
        grid.add_column(name, justify="left" if name in ("labels", "method") else "right")
    for line in table(summaries):
        name = line["method"] + (" (baseline)" if line["baseline"] and not repeated else "")
        val, test, best = ("-" if line[k] is None else f"{line[k]:.2f}" for k in ("val", "test", "best_on_val_test"))
        over = "-" if line["over_supervised"] is None else f"{line['over_supervised']:+.2f}"
        shown = (repeats_text(line), gain_text(line)) if repeated else (over,)
        grid.add_row(line["ratio"], name, val, test, *shown, best)
    console = Console(width=140)
    with console.capture() as capture:
        console.print(grid)
    return capture.get().rstrip()


if __name__ == "__main__":
    cli.run(main)
