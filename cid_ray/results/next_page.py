"""The page of `label_next`, `next.html`: the chosen images with what the network sees in them.

Self-contained like the report. `results` never imports `inference`, so its objects are only read
here. Everything that comes from data is escaped by the template.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cid_ray.results.audit_page import page_templates
from cid_ray.results.report_page import legend_entry
from cid_ray.storage import paths

PAGE_FILE = "next.html"
MAX_PICTURES = 200


def write_next_page(
    report: dict[str, Any], images: list[Any], colors: list[list[int]], out: Path
) -> None:
    """Write the page of a choice.

    Args:
        report: what `inference.next_report.NextReport.to_json` returned, with `settings`.
        images: the chosen images, what `inference.next_labels.NextLabels.draw` yielded.
        colors: [r, g, b] of each class.
        out: the folder.

    Raises:
        OSError: the file cannot be written.
    """
    names = [one["name"] for one in report["classes"]]
    content = {
        "report": report,
        "legend": [legend_entry(name, color) for name, color in zip(names, colors, strict=True)],
        "images": images[:MAX_PICTURES],
        "more": max(0, len(images) - MAX_PICTURES),
    }
    page = page_templates().get_template("next.html.j2").render(**content)
    # A name that is not UTF-8 holds surrogates, which no file can.
    paths.write_text(out / PAGE_FILE, page.encode("utf-8", "backslashreplace").decode())


def describe_choice(report: dict[str, Any]) -> list[str]:
    """Lines for a person."""
    lines = [
        f"{report['chosen']} of {report['pool']} pool images chosen, by {report['by']}; "
        f"{report['labeled']} are labeled",
        f"mean uncertainty: chosen {report['chosen_uncertainty']:.3f}, "
        f"pool {report['pool_uncertainty']:.3f}",
    ]
    if report["near_labels"]:
        count, first = len(report["near_labels"]), report["near_labels"][0]
        lines.append(f"left out: {count} images that look like a labeled one, such as {first}")
    if report["near_chosen"]:
        count, first = len(report["near_chosen"]), report["near_chosen"][0]
        lines.append(f"left out: {count} images that look like a chosen one, such as {first}")
    if report["unreadable"]:
        count, first = len(report["unreadable"]), report["unreadable"][0]
        lines.append(f"left out: {count} images that cannot be read: {first}")
    shown = [
        f"{one['name']} {one['labeled']:.2f} + {one['expected']:.2f}" for one in report["classes"]
    ]
    if report["cvat_problem"]:
        lines.append(report["cvat_problem"])
    lines.append(f"area of the classes in images, labeled + expected: {', '.join(shown)}")
    return lines
