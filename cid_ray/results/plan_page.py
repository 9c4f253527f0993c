"""The page of a plan, `plan.html`: makespan, cost and idle share against the number of nodes.

Self-contained like the report, and made of `plan` records alone. Everything that comes from data is
escaped by the template.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cid_ray.results.audit_page import page_templates
from cid_ray.results.figures import GRAY, add_legend, new_figure, to_svg
from cid_ray.results.plan_text import (
    COLUMNS,
    hours_text,
    main_record,
    method_text,
    path_text,
    plan_rows,
    recommendation,
    speed_text,
)
from cid_ray.results.records import Record
from cid_ray.results.report_page import rendered
from cid_ray.results.summary import COLORS
from cid_ray.storage import paths

PAGE_FILE = "plan.html"


def write_plan_page(records: list[Record], out: Path) -> None:
    """Write the page of a plan.

    Args:
        records: its `plan` records, fewest nodes first.
        out: the folder.

    Raises:
        OSError: the file cannot be written.
    """
    best = main_record(records)
    content = {
        "first": records[0],
        "best": best,
        "makespan": hours_text(best["makespan_s"]),
        "sentence": recommendation(records),
        "columns": COLUMNS,
        "rows": plan_rows(records),
        "figure": rendered(draw_plan(records)),
        "paths": [(record["nodes"], path_text(record)) for record in records],
        "methods": [method_text(one) for one in records[0]["methods"]],
        "speed": speed_text(records[0]),
    }
    page = page_templates().get_template("plan.html.j2").render(**content)
    # A name that is not UTF-8 holds surrogates, which no file can.
    paths.write_text(out / PAGE_FILE, page.encode("utf-8", "backslashreplace").decode())


def draw_plan(records: list[Record]) -> str:
    """Three panels over the number of nodes, each with its interval, as SVG."""
    panels: list[tuple[str, str, float]] = [
        ("makespan_s", "makespan, h", 3600),
        ("usd", "cost, US dollars", 1),
        ("idle_percent", "idle share of paid slots, %", 1),
    ]
    figure, axes = new_figure(len(panels), size=(3.6, 3.2))
    best = main_record(records)
    for axis, (field, label, size) in zip(axes, panels, strict=True):
        shown = [record for record in records if record[field] is not None]
        _draw_interval(axis, shown, field, size)
        if best["recommended"]:
            axis.axvline(best["nodes"], color=GRAY, ls="--", lw=1, label="recommended")
        axis.set_xscale("log", base=2)
        nodes = [record["nodes"] for record in records]
        axis.set_xticks(nodes[:: 1 + len(nodes) // 7], nodes[:: 1 + len(nodes) // 7])
        axis.minorticks_off()
        axis.set_ylim(bottom=0)
        axis.set_xlabel("nodes")
        axis.set_ylabel(label if shown else f"{label}: price unknown")
    add_legend(axes[0])
    return to_svg(figure)


def _draw_interval(axis: Any, records: list[Record], field: str, size: float) -> None:
    nodes = [record["nodes"] for record in records]
    low, median, high = (
        [record[field][key] / size for record in records] for key in ("low", "median", "high")
    )
    axis.fill_between(nodes, low, high, color=COLORS["cid"], alpha=0.2, lw=0, label="5 % to 95 %")
    axis.plot(nodes, median, "o-", color=COLORS["cid"], label="median")
