"""The page of an evaluation, `evaluation.html`: scores, confusions, calibration, worst images.

Self-contained like the report. It is made of the report that is also written as JSON, and of small
pictures; `results` never imports `inference`, so their objects are only read here. Everything that
comes from data is escaped by the template, and hidden characters are written out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cid_ray.results.audit_page import page_templates
from cid_ray.results.confusions import largest_confusions
from cid_ray.results.evaluation_text import tolerance_text
from cid_ray.results.figures import GRAY, add_legend, new_figure, to_svg
from cid_ray.results.report_page import legend_entry, rendered
from cid_ray.results.summary import COLORS
from cid_ray.storage import paths

MAX_MATRIX = 30  # classes; of more only the largest confusions are shown


def write_evaluation_page(report: dict[str, Any], worst: list[Any], out: Path) -> None:
    """Write the page of an evaluation.

    Args:
        report: what `inference.evaluation.Evaluation.report` returned.
        worst: what `inference.worst_images.draw_worst_images` returned.
        out: the file, usually `DIR/evaluation.html`.

    Raises:
        OSError: the file cannot be written.
    """
    colors = zip(report["classes"], report["colors"], strict=True)
    legend = [legend_entry(name, color) for name, color in colors]
    content = {
        "report": report,
        "legend": legend,
        "matrix": confusion_percentages(report) if len(legend) <= MAX_MATRIX else [],
        "confusions": largest_confusions(report["classes"], report["confusion"]),
        "reliability": rendered(draw_reliability(report["calibration"])),
        "tolerance": tolerance_text(report["boundary_tolerance"]),
        "worst": worst,
        "facts": _facts(report),
    }
    page = page_templates().get_template("evaluation.html.j2").render(**content)
    # A name that is not UTF-8 holds surrogates, which no file can.
    paths.write_text(out, page.encode("utf-8", "backslashreplace").decode())


def confusion_percentages(report: dict[str, Any]) -> list[tuple[str, list[float | None]]]:
    """For each true class the predicted classes in percent of its pixels; None without any."""
    found = []
    for name, row in zip(report["classes"], report["confusion"], strict=True):
        total = sum(row)
        found.append((name, [100 * pixels / total if total else None for pixels in row]))
    return found


def draw_reliability(calibration: dict[str, Any]) -> str:
    """The reliability curve as SVG: accuracy against confidence, and the pixels of each bin."""
    figure, axes = new_figure(1)
    axis = axes[0]
    bins = [one for one in calibration["bins"] if one["pixels"]]
    total = max(1, sum(one["pixels"] for one in bins))
    percentages = [100 * one["pixels"] / total for one in bins]
    width = calibration["bins"][0]["high"]
    lows = [one["low"] for one in bins]
    axis.bar(
        lows, percentages, width, align="edge", color=GRAY, alpha=0.35, label="fraction of pixels"
    )
    axis.plot([0, 100], [0, 100], "--", color=GRAY, lw=1, label="perfect calibration")
    confidence = [one["confidence"] for one in bins]
    accuracy = [one["accuracy"] for one in bins]
    axis.plot(confidence, accuracy, "o-", color=COLORS["cid"], label="accuracy")
    axis.set_xlim(0, 100)
    axis.set_ylim(0, 100)
    axis.set_xlabel("confidence, %")
    axis.set_ylabel("accuracy, fraction of pixels, %")
    add_legend(axis)
    return to_svg(figure)


def _facts(report: dict[str, Any]) -> list[tuple[str, str]]:
    """Name and value of what the numbers depend on."""
    tta = [f"scales {', '.join(map(str, report['tta']['scales']))}"]
    if report["tta"]["flip"]:
        tta.append("flip")
    versions = [f"{name} {version}" for name, version in report["versions"].items()]
    return [
        ("checkpoint", report["checkpoint"]),
        ("network", f"{report['network']} at step {report['step']}, {report['model']}"),
        ("table", f"{report['table']} (fingerprint {report['fingerprint']})"),
        ("sliding window", f"{report['window']} pixels" if report["window"] else "whole images"),
        ("test-time augmentation", "; ".join(tta)),
        ("device", report["device"]),
        ("versions", ", ".join(versions)),
        ("git", str(report["git"])),
    ]
