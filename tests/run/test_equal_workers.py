"""Law: the number of workers changes neither losses nor weights. Two processes (gloo, CPU, float32) against one."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp

from cid_ray.config import Config, override
from cid_ray.core.method import feeds_pool
from cid_ray.data.batches import Plan, local_batches
from cid_ray.run.run import Job, Run
from tests.support import TINY

STEPS = 2


def follow(config: Config, root: Path, rank: int, world: int) -> dict[str, torch.Tensor]:
    """Losses and weights after some steps, as this worker sees them."""
    run = Run(Job(config, root, rank=rank, world=world, threads=1))
    plan = Plan.of(config.data, run.split, config.train.seed, feeds_pool(config.method))
    losses = []
    for batch in local_batches(run.reader, plan, config.data, 0, STEPS, rank, world):
        terms = run.train_step(batch)
        losses.append(run.mean_over_workers(terms.floats()))
    names = [n for n in losses[0] if n != "mask_ratio"]
    found = {f"loss/{i}/{n}": torch.tensor(row[n]) for i, row in enumerate(losses) for n in names}
    return found | {n: v.detach().clone() for n, v in run.student.state_dict().items() if v.is_floating_point()}


def worker(rank: int, world: int, port: int, config: str, root: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    found = follow(Config.model_validate_json(config), Path(root), rank, world)
    if rank == 0:
        torch.save(found, Path(root) / "found.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("kind", ["self", "cross", "transfer", "class"])
def test_two_workers_give_the_losses_and_weights_of_one(tmp_path: Path, kind: str) -> None:
    config = override(
        TINY, {"loss.relation_kind": kind, "loss.conf_thresh": 0.2, "data.crop_size": 64, "optim.lr": 1e-3}
    )
    alone = follow(config, tmp_path / "alone", 0, 1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(worker, (2, port, config.model_dump_json(), str(tmp_path)), nprocs=2)
    together = torch.load(tmp_path / "found.pt", weights_only=True)
    assert together.keys() == alone.keys()
    for name, value in alone.items():
        torch.testing.assert_close(together[name], value, atol=1e-4, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}")
