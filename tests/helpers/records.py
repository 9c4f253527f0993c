"""Records of made-up searches, with every field that real ones have (tests check them both)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cid_ray.results.records import Record, RecordWriter

SCORES = {"supervised": 40.0, "pool_bn": 41.0, "mean_teacher": 42.5, "cid": 44.0}
BASE_MEANS = {"supervised": 48.0, "pool_bn": 48.1, "mean_teacher": 50.0, "cid": 50.2}
REPEAT_EFFECTS = (-0.9, 0.2, 0.7)  # what each repeat's seed and draw do to all candidates
# Residuals sum to zero over candidates and over repeats: means and effects are exactly as written.
RESIDUALS = {
    "supervised": (0.2, -0.1, -0.1),
    "pool_bn": (-0.2, 0.1, 0.1),
    "mean_teacher": (0.1, -0.2, 0.1),
    "cid": (-0.1, 0.2, -0.1),
}
PED_ANOVA = "PED-ANOVA over completed trials only"
POOL_SIGNALS = {
    "images": 8,
    "confidence": 80.0,
    "confident": 40.0,
    "agreement": 95.0,
    "prior_distance": 10.0,
    "class_shares": {"sky": 60.0, "<road>": 40.0},
    "label_shares": {"sky": 70.0, "<road>": 30.0},
}
STEPS = 10
IMAGES_PER_STEP = 8
TIMESTAMP = 1_000_000.0


def run_name(method: str, count: int, number: int = 0) -> str:
    return f"1_{count}-{method}-{number:03d}"


def common_fields(method: str, count: int, number: int = 0) -> Record:
    return {
        "run": run_name(method, count, number),
        "ratio": f"1/{count}",
        "method": method,
        "trial_number": number,
        "repeats_of": "",
        "repeat_index": 0,
    }


def checked_pool(picture: str = "pool/images/00.jpg") -> Record:
    """What `pool` may have found for the best CID trial, a finding of every kind."""
    unlike = {"count": 6, "percent": 30.0, "low": 14.5, "high": 51.9}
    chance = {"by_chance": 5.0, "chance_high": 14.0, "beyond_chance": True}
    group = {"name": "night", "images": 10, "labeled": 0, "features": 6, "colors": 5}
    labeled = {"labeled": 4.0, "expected_labeled": 3.0}
    copy = {"count": 2, "example": "train/3", "example_of": "test/1"}
    return {
        **common_fields("cid", 16),
        "event": "pool",
        "timestamp": TIMESTAMP,
        "table": "demo",
        "data": "0123456789abcdef",
        "pool_count": 40,
        "images": 20,
        "labeled": 16,
        "unreadable": 1,
        "by_features": {**unlike, **chance},
        "by_colors": {**unlike, **chance},
        "unlike": 6,
        "groups": [
            {"split": "pool", **group, "beyond_chance": True},
            {"split": "val", **group, "name": "", "beyond_chance": False},
        ],
        "uncertainty": {"labeled": 0.1, "val": 0.2, "pool": 0.3},
        "uncertainty_excess": 2.5,
        "classes": {
            "road": {**labeled, "expected": 0.0, "finding": "absent"},
            "car": {**labeled, "expected": 0.5, "finding": "rarer"},
            "sky": {**labeled, "expected": 3.0, "finding": ""},
        },
        "copies": [{"of": name, **copy} for name in ("test", "val", "labeled", "pool")],
        "outliers": {"brightness": 1, "contrast": 0, "size": 1, "shape": 0},
        "outlier_images": 2,
        "left_out": 13,
        "split_files": "pool/split",
        "pictures": [
            {"image_id": "train/3", "group": "night", "reason": "dark", "file": picture},
        ],
    }


def header(method: str, count: int, number: int = 0) -> Record:
    return {
        **common_fields(method, count, number),
        "ratio_name": f"1/{count} ({count})",
        "label_count": count,
        "val_count": 4,
        "pool_count": 48 - count,
        "draw": 0,
        "label_from": "any",
        "seed": 0,
        "steps": STEPS,
        "workers": 1,
        "device": "CPU, 1 threads, float32, channels_last",
        "data": "0123456789abcdef",
        "split_id": "0123456789ab",
        "fingerprint": "0123456789abcdef",
        "versions": {"cid_ray": "0.1.0"},
        "python": "3.11.7",
        "machine": "x86_64, 2 cores",
        "git": None,
    }


def cost(step: int) -> Record:
    seconds = 0.3 * step
    return {
        "step": step,
        "images_seen": IMAGES_PER_STEP * step,
        "seconds": seconds,
        "images_per_s": IMAGES_PER_STEP * step / seconds,
    }


def split_scores(prefix: str, student: float, teacher: float) -> Record:
    """Scores as a run records them; the class <road> has no ground truth."""
    return {
        f"{prefix}/miou": min(student, 100.0),
        f"{prefix}/miou_teacher": min(teacher, 100.0),
        f"{prefix}/iou": {"sky": min(student, 100.0), "<road>": None},
        f"{prefix}/iou_teacher": {"sky": min(teacher, 100.0), "<road>": None},
        f"{prefix}/pixel_accuracy": 90.0,
        f"{prefix}/pixel_accuracy_teacher": 90.0,
        f"{prefix}/ece": 8.0,
        f"{prefix}/ece_teacher": 7.0,
        f"{prefix}/absent": ["<road>"],
    }


def rung(method: str, count: int, number: int, step: int, value: float, **fields: Any) -> Record:
    """A rung with the teacher's val mIoU; the student is a point behind."""
    losses = dict.fromkeys(("total", "sup", "pseudo", "relation", "style", "mask_ratio"), 0.5)
    return {
        "event": "rung",
        **header(method, count, number),
        **cost(step),
        "losses": losses,
        **split_scores("val", value - 1, value),
        "pool_signals": POOL_SIGNALS,
        "samples": [],
        "colors": {},
        "unreadable": 0,
        "unreadable_ids": [],
        "skipped_steps": 0,
        "warning": None,
        "params": {},
        **fields,
    }


def final(
    method: str, count: int, score: float | None = None, number: int = 0, **fields: Any
) -> Record:
    """The end of a chosen run. On test it has `score` plus a tenth of the label count.

    Val is a point better, the best-on-val step two points.
    """
    value = (SCORES[method] if score is None else score) + count / 10
    return {
        "event": "final",
        **header(method, count, number),
        **cost(STEPS),
        **split_scores("val", value + 1, value + 1),
        **split_scores("test", value, value),
        "best/step": 5,
        **split_scores("best/val", value + 3, value + 3),
        **split_scores("best/test", value + 2, value + 2),
        "test_split": "test",
        "test_is_val": False,
        "test_seconds": 0.5,
        "samples": [],
        "worst_samples": [],
        "confusions": [
            {"truth": "sky", "predicted": "<road>", "pixels": 1234, "percent": 5.0},
        ],
        "colors": {},
        "warnings": [],
        "params": {"loss.relation_weight": 0.5} if method == "cid" else {},
        **fields,
    }


def untested_final(method: str, count: int, number: int, value: float, **fields: Any) -> Record:
    """The end of a trial that the search has not chosen: it has no test scores."""
    record = final(method, count, number=number, **fields)
    test_fields = [key for key in record if "test" in key or key.startswith("best/")]
    for key in (*test_fields, "samples", "worst_samples", "confusions", "colors"):
        del record[key]
    return {**record, **split_scores("val", value - 1, value)}


def finished(
    method: str, count: int, number: int = 0, state: str = "complete", **fields: Any
) -> Record:
    """The `trial` record."""
    return {
        "event": "trial",
        **common_fields(method, count, number),
        "state": state,
        "reason": "",
        "timestamp": TIMESTAMP,
        **fields,
    }


def search(method: str, count: int, best: str | None, **fields: Any) -> Record:
    return {
        "event": "search",
        **common_fields(method, count),
        "run": f"1/{count} {method}",
        "states": {"COMPLETE": 3},
        "num_trials": 3,
        "best": best,
        "metric": "val/miou_teacher",
        "candidates": [],
        "best_hyperparameters": {},
        "importances": {},
        "importance_method": PED_ANOVA,
        **fields,
    }


def small_search(counts: tuple[int, ...] = (16, 8)) -> list[Record]:
    """Three CID trials at two ratios, the last one the best; a run of each baseline."""
    records: list[Record] = []
    for count in counts:
        trials = [(40.0, "complete"), (30.0, "pruned"), (45.0, "complete")]
        for number, (value, state) in enumerate(trials):
            records.append(rung("cid", count, number, 5, value - 5))
            if state == "complete":
                records.append(rung("cid", count, number, 10, value))
            records.append(finished("cid", count, number, state))
        for method in SCORES:
            records.append(final(method, count, number=2 if method == "cid" else 0))
        records.append(final("cid", count, 99.0))  # better on test, but val did not choose it
        states = {"COMPLETE": 2, "PRUNED": 1}
        importances = {"loss.relation_weight": 1.0}
        best = run_name("cid", count, 2)
        records.append(search("cid", count, best, states=states, importances=importances))
    return records


def write_small_search(folder: Path) -> None:
    writer = RecordWriter(folder)
    for record in small_search():
        writer.append(record)


def full_trial(method: str, count: int, number: int, value: float, **params: Any) -> list[Record]:
    """A complete trial: two rungs, the end without test scores, the trial record."""
    end = untested_final(
        method, count, number, value, params=params, latency_ms=5.0 + number, seed=0, draw=0
    )
    return [
        rung(method, count, number, 5, value - 5, params=params),
        rung(method, count, number, 10, value, params=params),
        end,
        finished(method, count, number),
    ]


def repeat(method: str, count: int, number: int, index: int, score: float) -> list[Record]:
    """One repeat of a run, with a rung, hyperparameters and a latency that must not count."""
    original = run_name(method, count, number)
    fields: Record = {
        "run": f"{original}-repeat{index}",
        "repeats_of": original,
        "repeat_index": index,
    }
    drawn = {**fields, "seed": 100 + index, "draw": index}
    scores = split_scores("val", score + 1, score + 1) | split_scores("test", score, score)
    end = final(method, count, number=number, **drawn, **scores)
    return [
        rung(method, count, number, 10, 99.0, **drawn),
        {**end, "params": {"loss.relation_weight": 77.0}},
        finished(method, count, number, **fields),
    ]


def repeated_search(count: int = 16, repeats: int = 3, **means: float) -> list[Record]:
    """A search whose best runs were repeated, with known means over the repeats.

    Val chose the second of three CID trials; it and the third were repeated. Mean teacher had two
    trials, supervised and pool_bn one.
    """
    means = {**BASE_MEANS, **means}
    records: list[Record] = []
    for number, value in enumerate((45.0, 51.0, 51.5)):
        kind = ("self", "cross", "self")[number]
        params = {"loss.relation_weight": 10.0**-number, "loss.relation_kind": kind}
        records += full_trial("cid", count, number, value, **params)
    records += full_trial("mean_teacher", count, 0, 47.0)
    records += full_trial("mean_teacher", count, 1, 49.0)
    records += full_trial("supervised", count, 0, 48.0)
    records += full_trial("pool_bn", count, 0, 48.0)
    chosen = {"supervised": 0, "pool_bn": 0, "mean_teacher": 1, "cid": 1}
    for method, number in chosen.items():
        # a lucky run, far from what its repeats will say
        records.append(final(method, count, 60.0, number=number, latency_ms=5.0 + number))
        records.append(search(method, count, run_name(method, count, number)))
    records[-1] |= {
        "candidates": [run_name("cid", count, 1), run_name("cid", count, 2)],
        "best_hyperparameters": {
            "loss.relation_weight": {"best": 0.1, "low": 0.01, "high": 0.1},
            "x": {"best": "a", "values": ["a", "b"]},
        },
        "importances": {"loss.relation_weight": 1.0},
        "importance_method": "a measure <of> some kind",
        "second_objective": "latency_ms",
        "pareto": [
            {
                "run": run_name("cid", count, number),
                "params": {"x": 0.25},
                "value": value,
                "cost": 5.0 + number,
            }
            for number, value in ((2, 51.5), (0, 45.0))
        ],
    }
    for index, effect in enumerate(REPEAT_EFFECTS[:repeats], start=1):
        for method, number in chosen.items():
            score = means[method] + effect + RESIDUALS[method][index - 1]
            records += repeat(method, count, number, index, score)
        records += repeat("cid", count, 2, index, means["cid"] - 1 + effect)
    return records
