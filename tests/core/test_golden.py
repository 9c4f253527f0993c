"""Golden: the losses of 20 CPU training steps of `cid` on the demo table, against golden.json.

It guards against a change that was meant to change nothing. All steps agree to 2e-3, the first ones
closer, because rounding grows with training. A small learning rate and a batch norm over more than
four cells keep that growth slow. Terms that see the strong view have a wider tolerance: its pixels
are rounded to whole numbers, some of them differently on another CPU.
After a deliberate change of the method, `python -m tests.core.test_golden` rewrites the file.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest

from cid_ray.config import Config, build_config
from cid_ray.data.loader import local_batches
from cid_ray.data.sampling import SamplingPlan
from cid_ray.training.trainer import RunSpec, Trainer
from tests.helpers.tiny_run import TINY

FILE = Path(__file__).with_name("golden.json")
NAMES = ("total", "sup", "pseudo", "relation", "style")
STEPS = 20
EARLY_STEPS = 5
EARLY_TOLERANCE = {"total": 1e-4, "sup": 1e-4, "pseudo": 1e-3, "relation": 1e-3, "style": 1e-3}


def golden_config() -> Config:
    return build_config(
        TINY,
        {
            "method": "cid",
            "data.crop_size": [64, 96],
            "optim.lr": 2e-4,
            "train.steps": STEPS,
            "train.device": "cpu",
            # So the EMAs are still in their ramp at the last step.
            "train.ema_span": 1.0,
            "loss.stats_span": 1.0,
            "loss.pseudo": "soft",
            "loss.conf_thresh": 0.2,
            "loss.relation_ramp": 0.25,
            "loss.style_ramp": 0.25,
            "loss.pseudo_ramp": 0.25,
        },
    )


def losses_by_term(root: Path, threads: int = 1) -> dict[str, list[float]]:
    """Each term's value at each step of a new training run in `root`."""
    config = golden_config()
    trainer = Trainer(RunSpec(config, root, num_threads=threads))
    plan = SamplingPlan.create(config.data, trainer.split, config.train.seed, config.uses_unlabeled)
    batches = local_batches(trainer.reader, plan, config.data, 0, STEPS)
    steps = [trainer.train_step(batch).to_floats() for batch in batches]
    return {name: [losses[name] for losses in steps] for name in NAMES}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[float]]:
    return losses_by_term(tmp_path_factory.mktemp("golden"))


@pytest.mark.parametrize("name", NAMES)
def test_twenty_steps_give_the_committed_losses(found: dict[str, list[float]], name: str) -> None:
    golden = json.loads(FILE.read_text())[name]
    assert len(golden) == STEPS
    early = pytest.approx(golden[:EARLY_STEPS], rel=EARLY_TOLERANCE[name])
    assert found[name][:EARLY_STEPS] == early
    assert found[name] == pytest.approx(golden, rel=2e-3)


def test_committed_losses_have_every_term_at_work() -> None:
    golden = json.loads(FILE.read_text())
    assert all(value > 1e-3 for name in NAMES for value in golden[name])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        by_term = losses_by_term(Path(folder))
    rounded = {name: [float(f"{value:.7g}") for value in by_term[name]] for name in NAMES}
    FILE.write_text(json.dumps(rounded, indent=1) + "\n")
