"""One self-contained HTML page, and the same as Markdown, from rows and the pictures that rows name."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup

from cid_ray import checkpoints
from cid_ray.config import Config
from cid_ray.results import figures
from cid_ray.results.record import Row
from cid_ray.results.summary import METHODS, RatioSummary, settings_by_ratio, summarize, table
from cid_ray.results.verdict import caution, verdict

ONE_PANEL, READABLE = 400, 0.8  # points; pixels for each of them
PED_ANOVA = "PED-ANOVA over trials of full length only"  # what the first search rows meant


def write_page(folder: Path, out: Path, rows: list[Row], config: Config) -> Path:
    """`index.html` and `report.md` about a run's folder, into `out`."""
    summaries = summarize(rows, config.search.metric)
    content: dict[str, Any] = {
        "title": folder.name,
        "lines": table(summaries),
        "summaries": [_ratio(summary, folder, config) for summary in summaries],
        "caution": caution(summaries),
        "repeated": any(summary.confirmed for summary in summaries),
        "config": config.to_yaml(),
        "failures": [row for row in rows if row.get("event") == "trial" and row["state"] == "failed"],
        "warnings": sorted({w for row in rows if row.get("event") == "final" for w in row.get("warnings", [])}),
        "provenance": next((row for row in reversed(rows) if row.get("versions")), {}),
        "legend": legend(rows),
        "label_curve": drawn(figures.draw_label_curve, [s for s in summaries if s.finals]),
        "history": drawn(figures.draw_history, [s for s in summaries if figures.history_data(s)]),
        "curves": drawn(figures.draw_curves, summaries),
        "importances": drawn(figures.draw_importances, summaries),
        "importance_methods": importance_methods(summaries),
        "slices": drawn(figures.draw_slices, summaries),
        "pareto": drawn(figures.draw_pareto, summaries),
        "pareto_lines": pareto_lines(summaries),
        "ratios": [summary.name for summary in summaries],
        "moved": moved(summaries),
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "index.html").write_text(templates().get_template("page.html.j2").render(**content))
    (out / "report.md").write_text(markdown(summaries))
    return out / "index.html"


@lru_cache(maxsize=1)
def templates() -> Environment:
    """The pages' templates and what they write numbers with."""
    pages = Environment(loader=PackageLoader("cid_ray.results", "."), autoescape=select_autoescape(["html.j2", "html"]))
    pages.filters["score"] = lambda value: "–" if value is None else f"{value:.2f}"
    pages.filters["signed"] = lambda value: "–" if value is None else f"{round(value, 2) + 0.0:+.2f}"  # no -0.00
    pages.filters |= {"setting": _setting, "repeats": repeats_text, "gain": gain_text, "span": span}
    return pages


@dataclass(frozen=True)
class Drawing:
    svg: Markup
    least: int  # pixels that it needs to be read; narrower screens scroll it


def drawn(draw: Callable[[list[RatioSummary]], str | None], summaries: list[RatioSummary]) -> Drawing | None:
    svg = draw(summaries) if summaries else None
    if not svg:
        return None
    wide = float(svg.partition('width="')[2].partition("pt")[0])
    return Drawing(Markup(svg), round(READABLE * wide) if wide > ONE_PANEL else 0)  # matplotlib escapes its texts


def _ratio(summary: RatioSummary, folder: Path, config: Config) -> dict[str, Any]:
    methods = [m for m in METHODS if m in summary.finals]
    iou = {
        m: summary.finals[m].get("test/iou_teacher" if "teacher" in summary.metric else "test/iou", {}) for m in methods
    }
    classes = list(next(iter(iou.values()), {}))
    cid = summary.finals.get("cid", {})
    return {
        "name": summary.name,
        "verdict": verdict(summary),
        "candidates": candidates(summary),
        "states": summary.search.get("states", {}),
        "wanted": summary.search.get("wanted"),
        "params": cid.get("params", {}),
        "weights": str(checkpoints.folder_of(config, folder, cid["run"])).removeprefix(f"{folder}/") if cid else None,
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


def legend(rows: list[Row]) -> list[tuple[str, str]]:
    colors: dict[str, list[int]] = next((row["colors"] for row in reversed(rows) if row.get("colors")), {})
    return [(name, "rgb({}, {}, {})".format(*color)) for name, color in colors.items()]


def candidates(summary: RatioSummary) -> list[dict[str, Any]]:
    """Everything that was repeated at a ratio: mean and spread on val, which chooses, and on held-out images."""
    val, test = summary.noise("val"), summary.noise("test")
    chosen = summary.repeated(val).values()
    return [
        {
            "run": run,
            "repeats": val.pairs,
            "val": _spread(val.mean(run), val.sd(run)),
            "test": _spread(test.mean(run), test.sd(run)) if run in test.scores else "–",
            "chosen": run in chosen,
        }
        for run in val.scores
    ]


def importance_methods(summaries: list[RatioSummary]) -> str:
    """What the importances of the figure measure."""
    shown = [s.search for s in summaries if s.search.get("importances")]
    return "; ".join(dict.fromkeys(search.get("importance_method") or PED_ANOVA for search in shown))


def moved(summaries: list[RatioSummary]) -> list[tuple[str, list[str]]]:
    """setting, and for each ratio the best trial's value with what the best quarter took."""
    return [(key, [_taken(top) for top in tops]) for key, tops in settings_by_ratio(summaries).items()]


def _taken(top: Row | None) -> str:
    if top is None:
        return "–"
    if "values" in top:
        taken = ", ".join(_setting(value) for value in top["values"])
    else:
        taken = f"{_setting(top['low'])} – {_setting(top['high'])}"
    return f"{_setting(top['best'])} ({taken})"


def pareto_lines(summaries: list[RatioSummary]) -> list[dict[str, Any]]:
    return [
        {
            "ratio": summary.name,
            "run": point["run"],
            "value": point["value"],
            "cost": _setting(point["cost"]),
            "of": figures.COSTS.get(summary.search["cost"], summary.search["cost"]),
            "params": ", ".join(f"{key}={_setting(value)}" for key, value in point["params"].items()),
        }
        for summary in summaries
        for point in summary.search.get("pareto") or []
    ]


def markdown(summaries: list[RatioSummary]) -> str:
    """The main table and verdicts as Markdown, and what moved."""
    lines = _main_table(summaries)
    for summary in summaries:
        lines += ["", f"**{summary.name}.** {verdict(summary)}"]
        params = summary.finals.get("cid", {}).get("params", {})
        if params:
            lines += ["", "Best CID settings: " + ", ".join(f"`{k}={_setting(v)}`" for k, v in params.items())]
    lines += ["", caution(summaries)]
    if settings := moved(summaries):
        names = [summary.name for summary in summaries]
        lines += ["", "How settings moved with the label count (best trial, and the best quarter of full-length ones):"]
        lines += ["", *_grid(["setting", *names], [[f"`{key}`", *cells] for key, cells in settings])]
    if points := pareto_lines(summaries):
        cells = [[p["ratio"], p["run"], _text(p["value"]), f"{p['cost']} ({p['of']})", p["params"]] for p in points]
        lines += ["", "Trials that none beats in both val mIoU and cost:"]
        lines += ["", *_grid(["labels", "run", "val mIoU", "cost", "settings"], cells)]
    return "\n".join([*lines, ""])


def _main_table(summaries: list[RatioSummary]) -> list[str]:
    repeated = any(summary.confirmed for summary in summaries)
    head = ["labels", "method", "val mIoU", "test mIoU, last step", "over supervised", "test at best-on-val step"]
    if repeated:
        head[2:5] = ["val mIoU, chosen run", "test mIoU, chosen run", "test mIoU, repeats", "over supervised"]
    cells = []
    for line in table(summaries):
        name = line["method"] + (" (baseline)" if line["baseline"] else "")
        scores = [_text(line[key]) for key in ("val", "test")]
        middle = [repeats_text(line), gain_text(line)] if repeated else [_signed(line["over_supervised"])]
        cells.append([line["ratio"], name, *scores, *middle, _text(line["best_on_val_test"])])
    return _grid(head, cells)


def _grid(head: list[str], cells: list[list[str]]) -> list[str]:
    lines = [f"| {' | '.join(row)} |" for row in (head, *cells)]
    return [lines[0], "|" + "---|" * len(head), *lines[1:]]


def repeats_text(line: dict[str, Any]) -> str:
    """ "50.10 ± 0.80 (3)": mean, standard deviation and number of repeats of a line of the main table."""
    return "–" if line["mean"] is None else f"{_spread(line['mean'], line['sd'])} ({line['repeats']})"


def gain_text(line: dict[str, Any]) -> str:
    """The gain over supervised only with how much it is worth: of the repeats, else of the one run."""
    if line["gain"] is not None:
        return f"{line['gain']:+.2f}, {line['judged'] or 'noise not measured'}"
    return "" if line["over_supervised"] is None else f"{line['over_supervised']:+.2f}, one run"


def _spread(mean: float, sd: float | None) -> str:
    return _text(mean) if sd is None else f"{mean:.2f} ± {sd:.2f}"


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.2f}"


def _text(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def span(seconds: float) -> str:
    """ "40 s", "12 min", "3 h 20 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def _setting(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
