"""The final report: `index.html`, self-contained in one file, and `report.md`.

Both come from records and the images that records name. The page holds its styles, figures and
images, so it can be mailed or published as it is. Everything that comes from data is escaped by the
templates.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup

from cid_ray.config import Config
from cid_ray.results import figures
from cid_ray.results.answers import answer
from cid_ray.results.figure_data import history_data
from cid_ray.results.formatting import (
    format_duration,
    format_score,
    format_signed,
    format_value,
    gain_text,
    repeats_text,
)
from cid_ray.results.hyperparameters import MIN_RELIABLE_TRIALS
from cid_ray.results.label_figure import draw_label_curve
from cid_ray.results.markdown import markdown
from cid_ray.results.next_steps import next_commands
from cid_ray.results.parallel_figure import draw_parallel
from cid_ray.results.pictures import data_uri, pictures_of, sample_pictures
from cid_ray.results.pool_section import (
    GROUP_HEAD,
    describe_pool,
    group_rows,
    newest_pool,
    pool_pictures,
)
from cid_ray.results.pool_signals import NAMES as SIGNAL_NAMES
from cid_ray.results.pool_signals import (
    class_share_table,
    health_table,
    ranking_sentence,
    ranking_table,
)
from cid_ray.results.published import NOTE, published_tables
from cid_ray.results.record_links import anchor_of, linked_records, noise_anchor
from cid_ray.results.records import Record, of_event
from cid_ray.results.slices_figure import draw_importances, draw_slices
from cid_ray.results.smooth_fit import MIN_TRIALS as MIN_TRIALS_OF_FIT
from cid_ray.results.summary import METHOD_NAMES, RatioSummary, compared, result_table, summarize
from cid_ray.results.tables import (
    MAX_ROWS,
    first_rows,
    hyperparameter_table,
    pareto_table,
    repeat_table,
)
from cid_ray.results.tries import equal_tries_text
from cid_ray.results.tries_figure import draw_tries
from cid_ray.results.verdict import caution, network_in_use, verdict
from cid_ray.storage import checkpoint_paths, paths

MIN_PIXELS_PER_POINT = 1.25  # texts of 9 points then have 11 pixels; a narrow screen scrolls
MAX_PIXELS_PER_POINT = 1.7


def write_page(
    folder: Path, out: Path, records: list[Record], config: Config, target: float | None = None
) -> Path:
    """Write the report of a run folder.

    Args:
        folder: the run folder, for its name and its images.
        out: folder for `index.html`, `report.md` and `answers.json`; it is created if absent.
        records: as `read_records` returns them.
        config: the run's configuration; `search.metric` selects the scores that are shown, and
            `prices` weighs labels against hours.
        target: mIoU in percent; the page says how many labels it needs.

    Returns:
        The path of `index.html`.

    Raises:
        OSError: `out` cannot be written.

    Example:
        >>> write_page(folder, folder / "report", read_records(folder), load_config(None))
    """
    summaries = summarize(records, config.search.metric)
    answers = answer(summaries, config.prices, target)
    answers_json = json.dumps(answers.record(), indent=1)
    linked = linked_records(records, summaries)
    pool = _pool_section(records, folder)
    content = {
        "title": folder.name,
        "answers": answers,
        "config": config.to_yaml(),
        "ratios": [summary.name for summary in summaries],
        "summaries": [_ratio_section(each, folder, config) for each in compared(summaries)],
        "lines": [_with_anchors(line) for line in result_table(summaries)],
        "linked_records": linked,
        "anchors": {record.anchor for record in linked},
        "answers_json": answers_json,
        "has_repeats": any(summary.repeats for summary in summaries),
        "caution": caution(summaries),
        "importance_methods": importance_methods(summaries),
        "min_reliable": MIN_RELIABLE_TRIALS,
        "min_trials_of_fit": MIN_TRIALS_OF_FIT,
        "published": published_tables(records, summaries),
        "published_note": NOTE,
        "hyperparameters": hyperparameter_table(summaries),
        "pareto_points": pareto_table(summaries),
        "ranking_sentence": ranking_sentence(answers.rankings),
        "ranking_ratios": list(dict.fromkeys(each.ratio for each in answers.rankings)),
        "rankings": ranking_table(answers.rankings),
        "signal_names": SIGNAL_NAMES,
        "legend": class_legend(records),
        "failures": [r for r in of_event(records, "trial") if r["state"] == "failed"],
        "warnings": sorted({w for r in of_event(records, "final") for w in r["warnings"]}),
        "provenance": next((r for r in reversed(records) if r.get("versions")), {}),
        "figures": _figures(summaries),
        "next_commands": next_commands(folder.name, summaries),
        "pool": pool,
    }
    page = templates().get_template("report.html.j2").render(**content)
    paths.write_text(out / "index.html", page)
    about_pool = pool["lines"] if pool else []
    paths.write_text(out / "report.md", markdown(summaries, answers, about_pool))
    paths.write_text(out / "answers.json", answers_json + "\n")
    return out / "index.html"


@lru_cache(maxsize=1)
def templates() -> Environment:
    """The templates of all pages, with filters that format numbers."""
    pages = Environment(
        loader=PackageLoader("cid_ray.results", "."),
        autoescape=select_autoescape(["html.j2", "html"]),
    )
    pages.filters |= {
        "score": format_score,
        "signed": format_signed,
        "value": format_value,
        "duration": format_duration,
        "repeats": repeats_text,
        "gain": gain_text,
        "first_rows": first_rows,
    }
    pages.globals["max_rows"] = MAX_ROWS
    return pages


@dataclass(frozen=True)
class RenderedFigure:
    svg: Markup
    min_width: int  # pixels that it needs to be read; narrower screens scroll it
    max_width: int  # pixels; it grows with its box up to this


def render_figure(
    draw: Callable[[list[RatioSummary]], str | None], summaries: list[RatioSummary]
) -> RenderedFigure | None:
    """A figure for a page; None when there is nothing to draw."""
    svg = draw(summaries) if summaries else None
    return rendered(svg) if svg else None


def rendered(svg: str) -> RenderedFigure:
    """SVG text of `figures.to_svg` for the macro `chart` of the pages."""
    width = float(svg.partition('width="')[2].partition("pt")[0])
    least, most = (round(MIN_PIXELS_PER_POINT * width), round(MAX_PIXELS_PER_POINT * width))
    return RenderedFigure(Markup(svg), least, most)  # safe: matplotlib escapes a figure's texts


def _figures(summaries: list[RatioSummary]) -> dict[str, RenderedFigure | None]:
    with_chosen = [s for s in summaries if s.chosen]
    with_cid = [s for s in summaries if history_data(s)]
    return {
        "label_curve": render_figure(draw_label_curve, with_chosen),
        "tries": render_figure(draw_tries, compared(summaries)),
        "history": render_figure(figures.draw_history, with_cid),
        "curves": render_figure(figures.draw_curves, compared(summaries)),
        "slices": render_figure(draw_slices, summaries),
        "parallel": render_figure(draw_parallel, summaries),
        "importances": render_figure(draw_importances, summaries),
        "pareto": render_figure(figures.draw_pareto, summaries),
    }


def _with_anchors(line: dict[str, Any]) -> dict[str, Any]:
    """A line of the main table with the records that its numbers come from."""
    final = {"event": "final", "run": line["run"]}
    return {
        **line,
        "final": anchor_of(final),
        "noise": noise_anchor(line["ratio_key"], "test"),
    }


def _ratio_section(summary: RatioSummary, folder: Path, config: Config) -> dict[str, Any]:
    methods = [m for m in METHOD_NAMES if m in summary.chosen]
    iou_key = "test/iou_teacher" if summary.network == "teacher" else "test/iou"
    iou = {m: summary.chosen[m].get(iou_key, {}) for m in methods}
    classes = list(next(iter(iou.values()), {}))
    cid = summary.chosen.get("cid")
    share_columns, class_shares = class_share_table(summary)
    return {
        "name": summary.name,
        "test_split": summary.test_split,
        "verdict": verdict(summary),
        "tries": equal_tries_text(summary),
        "network": network_in_use(summary),
        "repeats": repeat_table(summary),
        "states": summary.cid_search.get("states", {}),
        "num_trials": summary.cid_search.get("num_trials"),
        "params": cid.get("params", {}) if cid else {},
        "weights": _weights_folder(config, folder, cid["run"]) if cid else None,
        "methods": [(METHOD_NAMES[m], anchor_of(summary.chosen[m])) for m in methods],
        "classes": [(name, [iou[m].get(name) for m in methods]) for name in classes],
        "absent": next((r.get("test/absent", []) for r in summary.chosen.values()), []),
        "health": health_table(summary),
        "share_columns": share_columns,
        "class_shares": class_shares,
        "samples": sample_pictures(summary, folder),
        "confusions": cid.get("confusions", []) if cid else [],
        "worst": pictures_of(cid.get("worst_samples", []), folder) if cid else [],
    }


def _weights_folder(config: Config, folder: Path, run: str) -> str:
    """Where the weights of a run are stored, relative to the run folder if they are in it."""
    path = checkpoint_paths.checkpoint_dir(config, folder, run)
    return str(path).removeprefix(f"{folder}/")


def _pool_section(records: list[Record], folder: Path) -> dict[str, Any] | None:
    """What `pool` found, if it has run."""
    record = newest_pool(records)
    if record is None:
        return None
    return {
        "lines": describe_pool(record, folder.name),
        "head": GROUP_HEAD,
        "groups": group_rows(record),
        "classes": record["classes"],
        "pictures": [(one, data_uri(file)) for one, file in pool_pictures(record, folder)],
    }


def class_legend(records: list[Record]) -> list[tuple[str, str]]:
    """[(class, CSS color)] of the newest record that has them."""
    newest = next((r for r in reversed(records) if r.get("colors")), None)
    colors: dict[str, Any] = newest["colors"] if newest else {}
    return [legend_entry(name, color) for name, color in colors.items()]


def legend_entry(name: str, color: Any) -> tuple[str, str]:
    """A class with its color. Of anything but three integers nothing gets into the style."""
    if (
        isinstance(color, list)
        and len(color) == 3
        and all(type(value) is int and 0 <= value <= 255 for value in color)
    ):
        return name, "#{:02x}{:02x}{:02x}".format(*color)
    return f"{name} (its color is not [r, g, b])", "transparent"


def importance_methods(summaries: list[RatioSummary]) -> str:
    """What the importances of the figure measure."""
    shown = [s.cid_search for s in summaries if s.cid_search.get("importances")]
    return "; ".join(dict.fromkeys(search["importance_method"] for search in shown))
