"""How well the laws of results/laws.py forecast the largest count of published label curves.

Each curve of results/published.yaml with four label counts or more is fitted without its largest
count, which is then forecast. "Interval" is the share of curves inside of the forecast's interval.

    python -m benchmarks.laws --out benchmarks/results/laws
"""

from __future__ import annotations

import argparse
import json
import statistics
from fractions import Fraction
from pathlib import Path

from cid_ray.results.laws import fit_power_law, forecast_score
from cid_ray.results.provenance import provenance
from cid_ray.results.published import load_published

Curve = dict[float, float]
CITYSCAPES_TRAIN = 2975


def published_curves() -> dict[str, Curve]:
    """Data set, lists, backbone and method -> label count -> mIoU."""
    curves = {}
    for data_set in load_published():
        for table in data_set["tables"]:
            counts = [label_count(ratio) for ratio in table["splits"]]
            for backbone, methods in table["backbones"].items():
                for method, (_, *scores) in methods.items():
                    curve = {
                        n: score
                        for n, score in zip(counts, scores, strict=True)
                        if score is not None
                    }
                    if len(curve) >= 4:
                        name = f"{data_set['name']}, {table['lists']}, {backbone}, {method}"
                        curves[name] = curve
    return curves


def label_count(ratio: str) -> float:
    """Images of a ratio. Only Cityscapes names fractions and has four of them."""
    return float(Fraction(ratio)) * (CITYSCAPES_TRAIN if "/" in ratio else 1)


def forecast_largest(curve: Curve) -> dict[str, float]:
    """What each rule says of the largest count, from the others."""
    *known, last = sorted(curve)
    scores = {n: [curve[n]] for n in known}
    found = {
        "truth": curve[last],
        "largest count so far": curve[known[-1]],
        "power law": fit_power_law(scores, with_floor=False).score(last),
        "power law with floor": fit_power_law(scores, with_floor=True).score(last),
    }
    for level in (0.8, 0.95):
        forecast = forecast_score(scores, last, level)
        found |= {"forecast": forecast.score}
        found |= {f"low {level}": forecast.low, f"high {level}": forecast.high}
    return found


def summarize(found: list[dict[str, float]]) -> list[str]:
    """A Markdown table of the rules, and a line for each interval."""
    lines = ["| rule | median error | mean error |", "|---|---:|---:|"]
    for rule in ("largest count so far", "power law", "power law with floor", "forecast"):
        off = [abs(one[rule] - one["truth"]) for one in found]
        lines.append(f"| {rule} | {statistics.median(off):.2f} | {statistics.mean(off):.2f} |")
    lines.append("")
    edges = [("the two laws", "power law with floor", "power law")]
    edges += [
        (f"forecast, level {level}", f"low {level}", f"high {level}") for level in (0.8, 0.95)
    ]
    for name, low, high in edges:
        inside = sum(one[low] <= one["truth"] <= one[high] for one in found)
        width = statistics.median(one[high] - one[low] for one in found)
        lines.append(f"- between {name}: {inside} of {len(found)}, median width {width:.1f}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    found = {name: forecast_largest(curve) for name, curve in published_curves().items()}
    print("\n".join(summarize(list(found.values()))))
    args.out.mkdir(parents=True, exist_ok=True)
    facts = {"curves": found, **provenance()}
    (args.out / "laws.json").write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
