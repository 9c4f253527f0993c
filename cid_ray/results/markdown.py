"""`report.md`: the main table, the verdicts and the hyperparameters as Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence

from cid_ray.config.plain_text import printable
from cid_ray.results.answers import Answers
from cid_ray.results.formatting import (
    format_score,
    format_signed,
    format_value,
    gain_text,
    repeats_text,
)
from cid_ray.results.pool_signals import ranking_sentence
from cid_ray.results.summary import RatioSummary, compared, result_table
from cid_ray.results.tables import hyperparameter_table, pareto_table
from cid_ray.results.verdict import caution, network_in_use, verdict


def markdown(
    summaries: list[RatioSummary], answers: Answers, about_pool: Sequence[str] = ()
) -> str:
    """The report as Markdown, for a README or a pull request.

    Args:
        summaries: as `summarize` returns them.
        answers: what `answer` made of them.
        about_pool: the lines of `describe_pool`, if the pool was looked at.
    """
    lines = _main_table(summaries)
    for summary in compared(summaries):
        lines += ["", f"**{escape_markdown(summary.name)}.** {escape_markdown(verdict(summary))}"]
        if summary.name in answers.tries:
            lines += ["", escape_markdown(answers.tries[summary.name])]
        lines += ["", escape_markdown(network_in_use(summary))]
        params = summary.chosen.get("cid", {}).get("params", {})
        if params:
            values = ", ".join(
                _code(f"{key}={format_value(value)}") for key, value in params.items()
            )
            lines += ["", f"Best CID hyperparameters: {values}"]
    lines += ["", escape_markdown(caution(summaries))]
    lines += _answers(answers)
    if about_pool:
        lines += ["", "What is in the pool:"]
        lines += [line for text in about_pool for line in ("", f"- {escape_markdown(text)}")]
    lines += _hyperparameters(summaries)
    for each in answers.hyperparameters:
        lines += ["", f"- {escape_markdown(each.text())}"]
    if sentence := ranking_sentence(answers.rankings):
        lines += ["", escape_markdown(sentence)]
    lines += _pareto(summaries)
    return "\n".join([*lines, ""])


def _answers(answers: Answers) -> list[str]:
    target = (answers.target_sentence(), *answers.plan_sentences())
    sentences = [*answers.worth_sentences(), *target, answers.next_sentence()]
    lines = [line for text in sentences if text for line in ("", escape_markdown(text))]
    for way in answers.ways:
        lines += ["", f"- {escape_markdown(way.text())}"]
    return lines


def _main_table(summaries: list[RatioSummary]) -> list[str]:
    has_repeats = any(summary.repeats for summary in summaries)
    head = ["labels", "method"]
    if has_repeats:
        head += ["val mIoU, chosen run", "test mIoU, chosen run", "val - test"]
        head += ["test mIoU, repeats", "over supervised"]
    else:
        head += ["val mIoU", "test mIoU, last step", "val - test", "over supervised"]
    head += ["test at best-on-val step"]
    cells = []
    for line in result_table(summaries):
        name = line["method_name"] + (" (baseline)" if line["is_baseline"] else "")
        scores = [format_score(line[key]) for key in ("val", "test")]
        scores.append(format_signed(line["optimism"]))
        if has_repeats:
            middle = [repeats_text(line), gain_text(line)]
        else:
            gain = line["over_supervised"]
            middle = ["" if gain is None else f"{gain:+.2f}"]
        cells.append(
            [line["ratio"], name, *scores, *middle, format_score(line["best_on_val_test"])]
        )
    return markdown_table(head, cells)


def _hyperparameters(summaries: list[RatioSummary]) -> list[str]:
    table = hyperparameter_table(summaries)
    if not table:
        return []
    title = (
        "How hyperparameters change with the label count "
        "(best trial, and the best quarter of completed trials):"
    )
    head = ["hyperparameter", *(summary.name for summary in summaries)]
    return ["", title, "", *markdown_table(head, [[key, *cells] for key, cells in table], code=0)]


def _pareto(summaries: list[RatioSummary]) -> list[str]:
    points = pareto_table(summaries)
    if not points:
        return []
    title = "Trials that no other trial beats in both val mIoU and cost:"
    cells = [
        [
            p["ratio"],
            p["run"],
            format_score(p["value"]),
            f"{p['cost']} ({p['cost_label']})",
            p["params"],
        ]
        for p in points
    ]
    return [
        "",
        title,
        "",
        *markdown_table(["labels", "run", "val mIoU", "cost", "hyperparameters"], cells),
    ]


def markdown_table(head: list[str], cells: list[list[str]], code: int | None = None) -> list[str]:
    """The lines of a table; the cells of column `code` are code."""
    escaped = [list(map(escape_markdown, row)) for row in (head, *cells)]
    if code is not None:
        for row, shown in zip(cells, escaped[1:], strict=True):
            shown[code] = _code(row[code])
    lines = [f"| {' | '.join(row)} |" for row in escaped]
    return [lines[0], "|" + "---|" * len(head), *lines[1:]]


def escape_markdown(text: str) -> str:
    """Text from data that Markdown shows as it is: neither HTML, links nor another cell."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*\[\]|!])", r"\\\1", " ".join(printable(text).split()))


def _code(text: str) -> str:
    """The same as inline code, which neither a backtick nor a bar may end."""
    text = " ".join(printable(text).split()).replace("`", "'")
    return "`" + text.replace("|", "\\|") + "`"
