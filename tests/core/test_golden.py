"""Golden: the losses of 20 CPU training steps of `cid` on the demo table, against those of `golden.json`.

What it guards: a change that was meant to change nothing. All steps agree to 2e-3 and the first ones closer, since
rounding grows with training; a small learning rate and a batch norm over more than four cells keep that slow. What sees
the strong view is held less close: its pixels are rounded to whole numbers, some of them otherwise on another CPU.
After a change that was meant: `python -m tests.core.test_golden` writes the file anew.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest

from cid_ray.config import Config, override
from cid_ray.core.method import feeds_pool
from cid_ray.data.batches import Plan, local_batches
from cid_ray.run.run import Job, Run
from tests.support import TINY

FILE = Path(__file__).with_name("golden.json")
NAMES = ("total", "sup", "pseudo", "relation", "style")
STEPS, EARLY = 20, 5
EARLY_TOLERANCE = {"total": 1e-4, "sup": 1e-4, "pseudo": 1e-3, "relation": 1e-3, "style": 1e-3}


def config() -> Config:
    return override(
        TINY,
        {
            "method": "cid",
            "data.crop_size": [64, 96],
            "optim.lr": 2e-4,
            "train.steps": STEPS,
            "train.device": "cpu",
            "loss.pseudo": "soft",
            "loss.conf_thresh": 0.2,
            "loss.relation_ramp": 0.25,
            "loss.style_ramp": 0.25,
            "loss.pseudo_ramp": 0.25,
        },
    )


def trained(root: Path, threads: int = 1) -> dict[str, list[float]]:
    """Each loss at each step."""
    cfg = config()
    run = Run(Job(cfg, root, threads=threads))
    plan = Plan.of(cfg.data, run.split, cfg.train.seed, feeds_pool(cfg.method))
    rows = [run.train_step(b).floats() for b in local_batches(run.reader, plan, cfg.data, 0, STEPS)]
    return {name: [row[name] for row in rows] for name in NAMES}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[float]]:
    return trained(tmp_path_factory.mktemp("golden"))


@pytest.mark.parametrize("name", NAMES)
def test_twenty_steps_give_the_committed_losses(found: dict[str, list[float]], name: str) -> None:
    golden = json.loads(FILE.read_text())[name]
    assert len(golden) == STEPS
    assert found[name][:EARLY] == pytest.approx(golden[:EARLY], rel=EARLY_TOLERANCE[name])
    assert found[name] == pytest.approx(golden, rel=2e-3)


def test_every_term_is_at_work_in_the_committed_losses() -> None:
    golden = json.loads(FILE.read_text())
    assert all(value > 1e-3 for name in NAMES for value in golden[name])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        rows = trained(Path(folder))
    rounded = {name: [float(f"{value:.7g}") for value in values] for name, values in rows.items()}
    FILE.write_text(json.dumps(rounded, indent=1) + "\n")
