"""The results of an evaluation as lines for a terminal. They are read from its report alone."""

from __future__ import annotations

from typing import Any

from cid_ray.results.formatting import format_score

MAX_NAME = 24  # characters of a class name in the table


def describe_evaluation(report: dict[str, Any]) -> list[str]:
    """Lines with all scores of the classes and of the whole.

    Args:
        report: what `inference.evaluation.Evaluation.report` returned.
    """
    lines = [
        f"{report['split']}, {report['num_images']} images: mIoU {format_score(report['miou'])} "
        f"({report['network']} at step {report['step']})",
        f"pixel accuracy {format_score(report['pixel_accuracy'])}, ECE "
        f"{format_score(report['calibration']['ece'])} ({len(report['calibration']['bins'])} bins)",
        f"{'class':<{MAX_NAME}} {'IoU':>7} {'precision':>10} {'recall':>7} {'boundary F':>11}",
    ]
    for name in report["classes"]:
        values = [report[key][name] for key in ("iou", "precision", "recall", "boundary_f")]
        lines.append(_class_line(name, values))
    means = [report[f"mean_{key}"] for key in ("precision", "recall", "boundary_f")]
    lines.append(_class_line("mean", [report["miou"], *means]))
    lines.append(f"boundary F: within {tolerance_text(report['boundary_tolerance'])}")
    if report["absent"]:
        lines.append(
            f"left out of the means, no ground truth in {report['split']}: "
            f"{', '.join(report['absent'])}"
        )
    lines += [
        f"left out: {pixels} pixels of {name}" for name, pixels in report["ignored_pixels"].items()
    ]
    if report["comparison"]:
        lines.append(report["comparison"]["verdict"])
    return lines


def _class_line(name: str, values: list[float | None]) -> str:
    shown = [format_score(value) for value in values]
    return f"{name:<{MAX_NAME}} {shown[0]:>7} {shown[1]:>10} {shown[2]:>7} {shown[3]:>11}"


def tolerance_text(tolerance: list[float]) -> str:
    """ "1.0 pixels", or "1.0 to 9.0 pixels" for images of several sizes."""
    return " to ".join(dict.fromkeys(f"{value:.1f}" for value in tolerance)) + " pixels"
