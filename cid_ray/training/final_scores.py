"""The end of a run: test scores of the last step and of the best step on val, latency, pictures."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch

from cid_ray.core import iou
from cid_ray.results.confusions import largest_confusions
from cid_ray.results.formatting import format_score
from cid_ray.results.records import Record
from cid_ray.training import checkpoint
from cid_ray.training.samples import save_samples, save_worst_samples
from cid_ray.training.scoring import Scores, evaluate
from cid_ray.training.trainer import Trainer

LATENCY_RUNS = 9
LATENCY_WARMUP_RUNS = 2  # the first runs choose kernels and allocate memory


def score_fields(split: str, scores: Scores) -> Record:
    """Scores as fields of a record.

    `val/miou` is the student's, `val/miou_teacher` the teacher's, and so on. `val/absent` lists the
    classes without ground truth, which mIoU leaves out.
    """
    record: Record = {}
    for network, values in scores.items():
        suffix = "_teacher" if network == "teacher" else ""
        for key, value in values.items():
            if key != "absent":
                record[f"{split}/{key}{suffix}"] = value
        record[f"{split}/absent"] = values["absent"]
    return record


def final_scores(trainer: Trainer) -> Record:
    """Test scores of the last step, and under `best/` those of the step that was best on val.

    The test split is the table's test, or its val where the table has no test: `test_split` says
    which. Where only the images are left that select the best step, their scores are reported:
    `test_is_val` is true.
    """
    started = time.monotonic()
    test_is_val = trainer.split.test_is_val
    record: Record = {
        "test_split": trainer.split.test_split,
        "test_is_val": test_is_val,
        **score_fields("val", trainer.last_val),
    }
    last, errors = evaluate(trainer, "test")
    if test_is_val:
        last = trainer.last_val
    record |= score_fields("test", last)
    record |= {
        "samples": save_samples(trainer, "test"),
        "worst_samples": save_worst_samples(trainer, errors),
        "confusions": largest_confusions(trainer.table.classes, errors.confusion.tolist()),
        "colors": trainer.colors,
    }
    best = {
        "step": trainer.best["step"],
        **score_fields("val", trainer.best["val"]),
        **score_fields("test", _best_test_scores(trainer, last)),
    }
    record |= {f"best/{key}": value for key, value in best.items()}
    return record | {"test_seconds": round(time.monotonic() - started, 3)}


def _best_test_scores(trainer: Trainer, last: Scores) -> Scores:
    """Test scores of the best step. Unless it is the last step, the trainer gets its weights."""
    if trainer.best["step"] == trainer.step:
        return last
    if trainer.split.test_is_val:
        scores: Scores = trainer.best["val"]
        return scores
    name = trainer.spec.best_checkpoint
    content = checkpoint.load_checkpoint(name)
    with checkpoint.content_errors(name):
        networks = {"student": trainer.student, "teacher": trainer.teacher.module}
        for network, module in networks.items():
            checkpoint.check_alike(network, content[network], module.state_dict())
            module.load_state_dict(content[network])
    return trainer.evaluate("test")


@torch.no_grad()
def latency_ms(trainer: Trainer) -> float:
    """Milliseconds of the teacher's forward pass on one val image at its own size; a median."""
    net = trainer.teacher.module.eval()
    image, mask = next(trainer.eval_images(trainer.eval_rows("val")[:1]))
    size = (mask.shape[0], mask.shape[1])

    def predict() -> None:
        with trainer.device.autocast():
            iou.predict(net, image[None], size, trainer.config.train.sliding_window)

    return median_ms(predict, trainer.device.torch)


def median_ms(call: Callable[[], object], device: torch.device) -> float:
    """Milliseconds of a call on a device, the median of some after a few that warm up."""
    seconds = []
    for _ in range(LATENCY_WARMUP_RUNS + LATENCY_RUNS):
        started = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return round(1000 * float(np.median(seconds[LATENCY_WARMUP_RUNS:])), 3)


def describe_scores(record: Record) -> list[str]:
    """A `final` record as text: mIoU of the last and the best step, then the IoU of each class."""
    split = record["test_split"]
    steps = {"last step": "", f"best step on val, {record['best/step']}": "best/"}
    lines = [
        f"{label}: val mIoU {_miou_text(record, f'{prefix}val')}; "
        f"{split} mIoU {_miou_text(record, f'{prefix}test')}"
        for label, prefix in steps.items()
    ]
    lines.append(f"{'class':<20} {split} IoU, last step: teacher  student")
    for name, teacher in record["test/iou_teacher"].items():
        student = format_score(record["test/iou"][name])
        lines.append(f"{name:<20} {format_score(teacher):>31} {student:>8}")
    if record["test/absent"]:
        classes = ", ".join(record["test/absent"])
        lines.append(f"left out of mIoU, no ground truth in {split}: {classes}")
    return lines


def _miou_text(record: Record, key: str) -> str:
    teacher, student = record[f"{key}/miou_teacher"], record[f"{key}/miou"]
    return f"teacher {format_score(teacher)} student {format_score(student)}"
