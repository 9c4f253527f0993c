"""What the repeats of a search say, as `noise` records: the numbers behind "within noise"."""

from __future__ import annotations

from dataclasses import asdict

from cid_ray.results.noise import PROCEDURE, Noise
from cid_ray.results.records import Record
from cid_ray.results.summary import RatioSummary


def noise_records(summaries: list[RatioSummary]) -> list[Record]:
    """One record per ratio and split that has repeats; a newer one replaces the former."""
    return [
        _noise_record(summary, split, noise)
        for summary in summaries
        for split in ("val", "test")
        if (noise := summary.noise(split)).num_repeats
    ]


def _noise_record(summary: RatioSummary, split: str, noise: Noise) -> Record:
    runs = summary.repeated_runs(noise)
    key = summary.score_key(split)
    return {
        "event": "noise",
        "run": f"{summary.ratio} {key}",
        "ratio": summary.ratio,
        "method": "",
        "trial_number": 0,
        "repeats_of": "",
        "repeat_index": 0,
        "ratio_name": summary.name,
        "label_count": summary.label_count,
        "split": split,
        "test_split": summary.test_split,
        "metric": key,
        "n": noise.num_repeats,
        "df": noise.df,
        "chosen": runs,
        "means": {run: noise.mean(run) for run in noise.scores},
        "sds": {run: noise.sd(run) for run in noise.scores},
        "differences": {
            method: {
                other: noise.difference(runs[method], runs[other])
                for other in runs
                if other != method
            }
            for method in runs
        },
        "comparisons": {
            method: {
                other: asdict(each) for other, each in summary.comparisons(method, split).items()
            }
            for method in runs
        },
        "residual_variance": noise.variance,
        "floor": noise.floor,
        "single_run_floor": noise.single_run_floor,
        "procedure": PROCEDURE,
    }
