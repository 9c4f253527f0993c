"""A run's result on the terminal, and the call that writes all reports of a run folder.

`python -m cid_ray.report` and the end of a search call `write_report`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cid_ray.config import Config, InputError
from cid_ray.config.plain_text import printable
from cid_ray.results.answers import answer
from cid_ray.results.formatting import (
    format_params,
    format_score,
    format_signed,
    gain_text,
    repeats_text,
)
from cid_ray.results.next_steps import next_commands
from cid_ray.results.pool_signals import ranking_sentence
from cid_ray.results.published import NOTE, PublishedTable, published_tables
from cid_ray.results.records import RECORDS_FILE, Record, of_event
from cid_ray.results.report_page import write_page
from cid_ray.results.summary import RatioSummary, compared, result_table, summarize
from cid_ray.results.tables import pareto_table
from cid_ray.results.verdict import caution, network_in_use, verdict
from cid_ray.storage import checkpoint_paths, paths
from cid_ray.storage.run_dir import RunDir

TERMINAL_WIDTH = 160


def write_report(
    run_dir: RunDir,
    config: Config,
    records: list[Record],
    log: Callable[[str], None],
    out: Path | None = None,
    target: float | None = None,
) -> None:
    """Log the table and the verdicts of a run, and write `index.html` and `report.md`.

    Args:
        run_dir: the run folder, with its records and samples pulled.
        config: the run's configuration.
        records: as `read_records` returns them.
        log: receives one line or the table at a time, such as `print`.
        out: folder for the page (default: `report` in the run folder).
        target: mIoU in percent; the report says how many labels it needs.

    Raises:
        OSError: the page cannot be written.
    """
    summaries = summarize(records, config.search.metric)
    if not summaries and not of_event(records, "search"):
        raise InputError(
            f"{run_dir} has nothing to report: {RECORDS_FILE} holds no score; a page that was "
            "written before is left as it is"
        )
    log(comparison_table(summaries))
    answers = answer(summaries, config.prices, target)
    for summary in compared(summaries):
        log(f"{summary.name}: {verdict(summary)}")
        if summary.name in answers.tries:
            log(f"  {answers.tries[summary.name]}")
        log(f"  {network_in_use(summary)}")
        cid = summary.chosen.get("cid", {})
        if cid.get("params"):
            weights = checkpoint_paths.checkpoint_dir(config, run_dir.uri, cid["run"])
            log(f"  best CID hyperparameters: {format_params(cid['params'])}")
            log(f"  its weights: {weights}/last.pt")
    unfinished = unfinished_runs(records)
    if unfinished:
        log(f"{len(unfinished)} run(s) have not finished: {', '.join(unfinished[:3])}")
    if not any(summary.has_noise_floor for summary in summaries):
        log(caution(summaries))
    needed = (answers.target_sentence(), *answers.plan_sentences())
    for text in (*answers.worth_sentences(), *needed, answers.next_sentence()):
        if text:
            log(text)
    for way in answers.ways:
        log(f"  {way.text()}")
    for movement in answers.movements:
        if movement.moves:
            log(movement.text())
    if sentence := ranking_sentence(answers.rankings):
        log(sentence)
    for point in pareto_table(summaries):
        score = f"{point['value']:.2f} mIoU at {point['cost']} {point['cost_label']}"
        log(f"Pareto front: {point['ratio']}  {score}  {point['run']}")
    for table in published_tables(records, summaries):
        log(published_table(table.of_encoder(config.model.encoder)))
    for number, command in enumerate(next_commands(run_dir.uri, summaries)):
        log(f"{'      ' if number else 'next: '}{command}")
    write_page(run_dir.local, out or run_dir.local / "report", records, config, target)
    log(f"wrote {out or paths.join(run_dir.uri, 'report')}/index.html")


def unfinished_runs(records: list[Record]) -> list[str]:
    """The runs that reached a rung and have no end."""
    ended = {r["run"] for r in records if r["event"] in ("final", "trial", "stale", "failed")}
    reached = dict.fromkeys(record["run"] for record in of_event(records, "rung"))
    return [run for run in reached if run not in ended]


def comparison_table(summaries: list[RatioSummary]) -> str:
    """The main table as plain text."""
    has_repeats = any(summary.repeats for summary in summaries)
    columns = ["labels", "method", "val mIoU", "test mIoU", "val - test"]
    columns += ["test mIoU, repeats", "over supervised"] if has_repeats else ["over supervised"]
    columns += ["test at best-on-val"]
    table = Table(box=None, pad_edge=False)
    for name in columns:
        table.add_column(name, justify="left" if name in ("labels", "method") else "right")
    for line in result_table(summaries):
        is_marked = line["is_baseline"] and not has_repeats
        name = line["method_name"] + (" (baseline)" if is_marked else "")
        if has_repeats:
            middle = [repeats_text(line), gain_text(line)]
        else:
            gain = line["over_supervised"]
            middle = ["-" if gain is None else f"{gain:+.2f}"]
        scores = [_score(line["val"]), _score(line["test"]), _signed(line["optimism"])]
        table.add_row(
            printable(line["ratio"]), name, *scores, *middle, _score(line["best_on_val_test"])
        )
    return render_table(table)


def published_table(published: PublishedTable) -> str:
    """Other people's numbers as plain text, marked as theirs."""
    table = Table(box=None, pad_edge=False)
    for name in ("method", "backbone", *map(printable, published.ratios), "source"):
        is_text = name in ("method", "backbone", "source")
        table.add_column(name, justify="left" if is_text else "right")
    for row in published.rows:
        table.add_row(row.method, row.backbone, *map(_score, row.scores), row.source)
    return f"published numbers, {published.title}. {NOTE}\n{render_table(table)}"


def render_table(table: Table) -> str:
    """Plain text: a name in square brackets is no markup, and a log file gets no colours."""
    console = Console(
        width=TERMINAL_WIDTH, force_terminal=False, highlight=False, markup=False, emoji=False
    )
    with console.capture() as capture:
        console.print(table)
    return capture.get().rstrip()


def _signed(value: float | None) -> str:
    return "-" if value is None else format_signed(value)


def _score(value: float | None) -> str:
    return "-" if value is None else format_score(value)
