"""One self-contained HTML page, and the same as Markdown, from rows and the pictures that rows name."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup

from cid_ray.config import Config
from cid_ray.results import figures
from cid_ray.results.record import Row
from cid_ray.results.summary import CAUTION, METHODS, RatioSummary, summarize, table


def write_page(folder: Path, out: Path, rows: list[Row], config: Config) -> Path:
    """`index.html` and `report.md` about a run's folder, into `out`."""
    summaries = summarize(rows, config.search.metric)
    content: dict[str, Any] = {
        "title": folder.name,
        "lines": table(summaries),
        "summaries": [_ratio(summary, folder) for summary in summaries],
        "caution": CAUTION,
        "config": config.to_yaml(),
        "failures": [row for row in rows if row.get("event") == "trial" and row["state"] == "failed"],
        "warnings": sorted({w for row in rows if row.get("event") == "final" for w in row.get("warnings", [])}),
        "provenance": next((row for row in reversed(rows) if row.get("versions")), {}),
        "legend": _legend(rows),
        "label_curve": _drawn(figures.draw_label_curve, [s for s in summaries if s.finals]),
        "history": _drawn(figures.draw_history, [s for s in summaries if figures.history_data(s)]),
        "curves": _drawn(figures.draw_curves, summaries),
        "importances": _drawn(figures.draw_importances, summaries),
    }
    out.mkdir(parents=True, exist_ok=True)
    pages = Environment(loader=PackageLoader("cid_ray.results", "."), autoescape=select_autoescape(["html.j2", "html"]))
    pages.filters["score"] = lambda value: "–" if value is None else f"{value:.2f}"
    pages.filters["signed"] = lambda value: "–" if value is None else f"{value:+.2f}"
    (out / "index.html").write_text(pages.get_template("page.html.j2").render(**content))
    (out / "report.md").write_text(markdown(summaries))
    return out / "index.html"


def _drawn(draw: Any, summaries: list[RatioSummary]) -> Markup | None:
    svg = draw(summaries) if summaries else None
    return Markup(svg) if svg else None  # our own drawing; every text in it went through matplotlib's escaping


def _ratio(summary: RatioSummary, folder: Path) -> dict[str, Any]:
    methods = [m for m in METHODS if m in summary.finals]
    iou = {
        m: summary.finals[m].get("test/iou_teacher" if "teacher" in summary.metric else "test/iou", {}) for m in methods
    }
    classes = list(next(iter(iou.values()), {}))
    cid = summary.finals.get("cid", {})
    return {
        "name": summary.name,
        "verdict": summary.verdict(),
        "states": summary.search.get("states", {}),
        "wanted": summary.search.get("wanted"),
        "params": cid.get("params", {}),
        "checkpoint": f"checkpoints/{cid['run']}/last.pt" if cid else None,
        "methods": [METHODS[m] for m in methods],
        "classes": [(name, [iou[m].get(name) for m in methods]) for name in classes],
        "absent": next((row.get("test/absent", []) for row in summary.finals.values()), []),
        "pictures": _pictures(summary, folder),
    }


def _pictures(summary: RatioSummary, folder: Path) -> list[dict[str, Any]]:
    """Image, label, supervised and CID side by side, for the held-out images that both runs kept."""
    shown = {m: summary.finals[m].get("samples", []) for m in ("supervised", "cid") if m in summary.finals}
    by_image: dict[str, dict[str, str]] = {}
    for method, samples in shown.items():
        for sample in samples:
            if not (folder / sample["prediction"]).is_file():
                continue  # rows may travel without their pictures
            entry = by_image.setdefault(sample["image_id"], {})
            for name in ("image", "label"):
                entry.setdefault(name, _embedded(folder / sample[name]))
            entry[METHODS[method]] = _embedded(folder / sample["prediction"])
    return [{"image_id": key, "pictures": value} for key, value in by_image.items()]


def _embedded(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def _legend(rows: list[Row]) -> list[tuple[str, str]]:
    colors: dict[str, list[int]] = next((row["colors"] for row in reversed(rows) if row.get("colors")), {})
    return [(name, "rgb({}, {}, {})".format(*color)) for name, color in colors.items()]


def markdown(summaries: list[RatioSummary]) -> str:
    """The main table and verdicts as Markdown."""
    lines = [
        "| labels | method | val mIoU | test mIoU, last step | over supervised | test at best-on-val step |",
        "|---|---|---|---|---|---|",
    ]
    for line in table(summaries):
        gain = "" if line["over_supervised"] is None else f"{line['over_supervised']:+.2f}"
        name = line["method"] + (" (baseline)" if line["baseline"] else "")
        scores = [_text(line[key]) for key in ("val", "test")]
        lines.append(
            f"| {line['ratio']} | {name} | {scores[0]} | {scores[1]} | {gain} | {_text(line['best_on_val_test'])} |"
        )
    for summary in summaries:
        lines += ["", f"**{summary.name}.** {summary.verdict()}"]
        params = summary.finals.get("cid", {}).get("params", {})
        if params:
            lines += ["", "Best CID settings: " + ", ".join(f"`{k}={_setting(v)}`" for k, v in params.items())]
    return "\n".join([*lines, "", CAUTION, ""])


def _text(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _setting(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
