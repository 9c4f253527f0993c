"""The end of a run: held-out scores of the last step and, named as such, of the best-on-val step; and pictures."""

from __future__ import annotations

import time

import numpy as np
import torch

from cid_ray.core import evaluate
from cid_ray.results.record import Row
from cid_ray.run import state
from cid_ray.run.pictures import keep_pictures
from cid_ray.run.run import Run, Scores

LATENCY_RUNS = 9


def scores_row(split: str, scores: Scores) -> Row:
    """`val/miou` (student), `val/miou_teacher`, `val/iou`, ... and `val/absent`: classes without ground truth."""
    row: Row = {}
    for name, scored in scores.items():
        suffix = "_teacher" if name == "teacher" else ""
        row |= {f"{split}/{key}{suffix}": value for key, value in scored.items() if key != "absent"}
        row[f"{split}/absent"] = scored["absent"]
    return row


def closing_scores(run: Run) -> Row:
    """Held-out scores of the last step; then those of the step that was best on val, under `best/`.

    Held out is the table's test, or its val where it has no test: `held_out` says which. Only where nothing is left but
    the images that select are these reported: then `held_out_selects` is true.
    """
    started = time.monotonic()
    again = run.split.test_selects
    row = {"held_out": run.split.held_out, "held_out_selects": again, **scores_row("val", run.last_val)}
    last = run.last_val if again else run.evaluate("test")
    row |= scores_row("test", last) | {"samples": keep_pictures(run, "test"), "colors": run.colors}
    best = {"step": run.best["step"], **scores_row("val", run.best["val"])}
    if best["step"] == run.step:
        best |= scores_row("test", last)
    elif not again:
        content = state.load(run.job.best)
        run.student.load_state_dict(content["student"])
        run.teacher.module.load_state_dict(content["teacher"])
        best |= scores_row("test", run.evaluate("test"))
    else:
        best |= scores_row("test", run.best["val"])
    row |= {f"best/{key}": value for key, value in best.items()}
    return row | {"test_seconds": round(time.monotonic() - started, 3)}


@torch.no_grad()
def latency_ms(run: Run) -> float:
    """Milliseconds that the teacher takes for one held-out image at its own size: the median of LATENCY_RUNS."""
    net, seconds = run.teacher.module.eval(), []
    image, mask = next(run.held_out(run.held_out_rows("val")[:1]))
    for _ in range(LATENCY_RUNS + 2):
        started = time.perf_counter()
        with run.device.autocast():
            evaluate.predict(net, image[None], (mask.shape[0], mask.shape[1]), run.config.train.window)
        if run.device.torch.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return round(1000 * float(np.median(seconds[2:])), 3)  # the first two warm up
