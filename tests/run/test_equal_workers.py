"""Law: neither the number of workers nor micro-batches change losses, gradients or weights (tests/equal_workers.py)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cid_ray.config import Config, InputError, override
from cid_ray.core.dropout import Rows, of_global_batch
from cid_ray.core.micro import InParts
from cid_ray.run.build import micro_batches
from cid_ray.run.loop import feed
from cid_ray.run.run import Job, Run
from tests.equal_workers import Steps, all_on_workers, apart, config_of, follow, on_workers
from tests.object_store import free_port
from tests.support import TINY

STEPS, CLOSE = 20, 1e-4
NO_BATCH_NORM = {"model.encoder": "test_convnext"}


def assert_close(one: Steps, other: Steps, parts: tuple[str, ...] = ("loss", "grad", "weight")) -> None:
    found = apart(one, other)
    assert all(found[part] < CLOSE for part in parts), found


KINDS = ("self", "cross", "transfer", "class")


@pytest.fixture(scope="module")
def of_two_workers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Steps]:
    ways = [(as_it_is(kind).model_dump_json(), {"smoothed": False, "evaluated": True}) for kind in KINDS]
    found = all_on_workers(ways, tmp_path_factory.mktemp("two"), 2)
    return dict(zip(KINDS, found, strict=True))


def as_it_is(kind: str) -> Config:
    """Hard labels, ReLUs, a threshold."""
    changes = {"loss.relation_kind": kind, "loss.conf_thresh": 0.2, "data.crop_size": 64, "optim.lr": 1e-3}
    return override(TINY, {**changes, "train.steps": 2})


@pytest.mark.parametrize("kind", KINDS)
def test_two_workers_give_the_losses_and_weights_of_one_and_its_evaluation_bit_for_bit(
    of_two_workers: dict[str, Steps], tmp_path: Path, kind: str
) -> None:
    alone = follow(as_it_is(kind), tmp_path, smoothed=False, evaluated=True)
    for name in ("val/teacher", "val/student"):
        assert alone[-1][name].isfinite().any()
        torch.testing.assert_close(of_two_workers[kind][-1][name], alone[-1][name], rtol=0, atol=0, equal_nan=True)
    for mine, theirs in zip(alone, of_two_workers[kind], strict=True):
        assert theirs.keys() == mine.keys()
        for name, value in mine.items():
            if not name.startswith("grad/") and name != "loss/mask_ratio":
                torch.testing.assert_close(theirs[name], value, atol=1e-4, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}")


def slow(*values: object) -> object:
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(("kind", "world"), [slow("self", 2), slow("class", 2), ("cross", 3), slow("transfer", 4)])
def test_any_number_of_workers_gives_the_training_of_one(tmp_path: Path, kind: str, world: int) -> None:
    """Three workers hold 8 images as 2, 3, 3 and 2, 2, 4."""
    config = config_of(kind, STEPS)
    alone = follow(config, tmp_path)
    forced, free = on_workers(config, tmp_path, world)
    assert_close(alone, forced)
    assert_close(alone, free, ("loss", "weight"))
    assert apart(alone[:-1], alone[1:])["weight"] > CLOSE, "nothing was learned: the comparison says nothing"


@pytest.mark.parametrize("kind", [slow("self"), "cross", slow("transfer"), slow("class")])
def test_micro_batches_give_the_training_of_the_whole_batch(tmp_path: Path, kind: str) -> None:
    """Without batch norm, which normalises every part by itself. Parts of 6 of 16 images: 6, 5, 5."""
    alone = follow(config_of(kind, STEPS, **NO_BATCH_NORM), tmp_path)
    parts = config_of(kind, STEPS, **NO_BATCH_NORM, **{"train.micro_batch": 6})
    assert micro_batches(parts, 1) == 3
    assert_close(alone, follow(parts, tmp_path, forced=True))


@pytest.mark.slow
def test_micro_batches_on_workers_too(tmp_path: Path) -> None:
    alone = follow(config_of("cross", 4, **NO_BATCH_NORM), tmp_path)
    parts = config_of("cross", 4, **NO_BATCH_NORM, **{"train.micro_batch": 4})
    assert_close(alone, on_workers(parts, tmp_path, 3)[0])


def test_a_supervised_run_takes_micro_batches_too(tmp_path: Path) -> None:
    changes = {**NO_BATCH_NORM, "method": "supervised"}
    alone = follow(config_of("self", 3, **changes), tmp_path)
    assert_close(alone, follow(config_of("self", 3, **changes, **{"train.micro_batch": 2}), tmp_path, forced=True))


def test_parts_see_the_same_dropout_twice_and_move_statistics_once() -> None:
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4), torch.nn.Dropout(0.5))
    rows = Rows(torch.arange(6), 6, seed=0)
    of_global_batch(net, rows)

    class Pair(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            found = self.net(x)
            return found, 2 * found

    images, seen = torch.randn(6, 3, 4, 4), []
    net.register_forward_hook(lambda *args: seen.append(args[2].detach().clone()))
    whole = InParts(Pair(), 2, torch.no_grad().__class__, rows)
    whole.autocast = torch.enable_grad
    logits, feat = whole(images)
    assert int(net[1].num_batches_tracked) == 0
    (logits.sum() + feat.square().sum()).backward()
    whole.backward()
    assert int(net[1].num_batches_tracked) == 2
    assert len(seen) == 4 and torch.equal(seen[0], seen[2]) and torch.equal(seen[1], seen[3])
    assert net[0].weight.grad is not None and not whole.open


@pytest.mark.parametrize(
    ("world", "micro", "expected"), [(1, None, 1), (1, 16, 1), (1, 6, 3), (2, 6, 2), (3, 4, 2), (4, 2, 2)]
)
def test_all_workers_pass_the_same_number_of_parts(world: int, micro: int | None, expected: int) -> None:
    assert micro_batches(config_of("self", 1, **{"train.micro_batch": micro}), world) == expected


def build_apart(rank: int, port: int, root: str) -> None:
    """A worker of two, each with a folder of its own."""
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    with pytest.raises(InputError, match=r"different steps, 1, 0.*--out must be a folder that all nodes share"):
        Run(Job(config_of("self", 3), Path(root) / str(rank), rank=rank, world=2, threads=1))
    torch.distributed.destroy_process_group()


def test_workers_that_do_not_see_the_same_checkpoint_are_refused(tmp_path: Path) -> None:
    run = Run(Job(config_of("self", 3), tmp_path / "0", threads=1))
    run.train_step(next(feed(run)))
    run.save()
    torch.multiprocessing.spawn(build_apart, (free_port(), str(tmp_path)), nprocs=2)
