"""Law: statistics are those of the GLOBAL batch. Four processes (gloo) with two images of each kind give the losses and
the gradients of one process with eight, to 1e-5 in float32, for every relation, style, and both cross-entropies.

Gradients are averaged over workers as DDP averages them. Workers hold unequal numbers of ignored and padded pixels, the
last one has no labeled pixel at all, and not every worker sees every class. Two steps, so that EMAs are compared too.
"""

from __future__ import annotations

import socket
from multiprocessing import set_forkserver_preload
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from cid_ray.config import override
from cid_ray.core import augment, world
from cid_ray.core.method import Method
from tests.core.pieces import CHANNELS, CLASSES, Batch, PointNet, gradients, make_batch

WORKERS, GLOBAL, STEPS = 4, 8, 2
TERMS = ("sup", "pseudo", "relation", "style", "total")
VARIANTS: dict[str, dict[str, Any]] = {
    "cross": {"relation_kind": "cross"},
    "self": {"relation_kind": "self"},
    "self on a grid": {"relation_kind": "self", "relation_grid": 2, "style_target": "labeled"},
    "transfer": {"relation_kind": "transfer", "style_stat": "gram"},
    "class": {"relation_kind": "class", "relation_temperature": 0.5, "style_stat": "gram", "style_target": "symmetric"},
    "soft": {"pseudo": "soft", "style_target": "symmetric"},
    "class weights": {"relation_weight": 0.0, "style_weight": 0.0},
}
Found = dict[str, dict[str, Tensor]]


def global_batch() -> Batch:
    """Eight images at 32 x 64; the last two without a labeled pixel, class 0 in the first four alone."""
    batch = make_batch(seed=5, count=GLOBAL, size=(32, 64))
    batch["mask_x"][-2:] = 255
    batch["valid_u"][5:, 20:] = False
    later = batch["mask_x"][4:]
    later[later == 0] = 1
    return batch


def follow(variant: str, batch: Batch, rank: int, workers: int) -> Found:
    """Each term's value and gradient after the last step, averaged over workers, and the EMA statistics."""
    loss = {"pseudo_ramp": 0, "relation_ramp": 0, "style_ramp": 0, "conf_thresh": 0.4, **VARIANTS[variant]}
    weights = torch.tensor([0.2, 1.0, 3.0, 0.5]) if variant == "class weights" else None
    method = Method(override({"loss": loss}, ()), CLASSES, CHANNELS, weights)
    share = GLOBAL // workers
    own = {name: value[rank * share : (rank + 1) * share] for name, value in batch.items()}
    student, teacher = PointNet(0), near(PointNet(0))
    for step in range(STEPS):
        terms = method(student, teacher, own, step, rank, workers)
    found = {}
    for name in TERMS:
        value = getattr(terms, name)
        found[name] = {"loss": mean_over_workers(value.detach())}
        found[name] |= {k: mean_over_workers(v) for k, v in gradients(value, student).items()}
    found["mask_ratio"] = {"loss": mean_over_workers(terms.mask_ratio)}
    found["statistics"] = {k: v.clone() for k, v in method.named_buffers() if k != "class_weights"}
    return found


def near(net: PointNet) -> PointNet:
    """The same network a third of the way to another one."""
    with torch.no_grad():
        for value, other in zip(net.parameters(), PointNet(1).parameters(), strict=True):
            value.lerp_(other, 1 / 3)
    return net


def mean_over_workers(value: Tensor) -> Tensor:
    value = value.clone()
    if world.size() > 1:
        dist.all_reduce(value)
    return value / world.size()


def worker(rank: int, port: int, root: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=WORKERS)
    found = {variant: follow(variant, global_batch(), rank, WORKERS) for variant in VARIANTS}
    torch.save(found, Path(root) / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def of_four(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Found]]:
    """What every one of the four workers found, for every variant."""
    root = tmp_path_factory.mktemp("workers")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    set_forkserver_preload(["cid_ray.core.method"])  # imported once, not four times
    mp.start_processes(worker, (port, str(root)), nprocs=WORKERS, start_method="forkserver")
    return [torch.load(root / f"{rank}.pt", weights_only=True) for rank in range(WORKERS)]


@pytest.mark.parametrize("variant", VARIANTS)
def test_four_workers_give_the_losses_and_gradients_of_one(of_four: list[dict[str, Found]], variant: str) -> None:
    alone = follow(variant, global_batch(), 0, 1)
    for found in of_four:
        together = found[variant]
        assert together.keys() == alone.keys()
        for term, values in alone.items():
            torch.testing.assert_close(
                together[term], values, atol=1e-5, rtol=1e-5, msg=lambda m, t=term: f"{t} of {variant}: {m}"
            )


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_term_of_the_comparison_is_at_work(variant: str) -> None:
    alone = follow(variant, global_batch(), 0, 1)
    distills = variant != "class weights"
    for term in TERMS:
        at_work = distills or term not in ("relation", "style")
        assert (alone[term]["loss"] > 1e-4) == at_work, term
        assert (alone[term]["body.weight"].abs().max() > 1e-4) == at_work, term


def test_workers_of_the_comparison_hold_unequal_numbers_of_pixels_and_mixed_images() -> None:
    batch = global_batch()
    for mask in (batch["mask_x"] != 255, batch["valid_u"]):
        assert len(set(mask.reshape(WORKERS, -1).sum(1).tolist())) > 2
    draw = augment.draw_strong(GLOBAL, (32, 64), augment.generator(0, STEPS - 1))
    assert augment.cutmix_mask(draw, (32, 64), torch.device("cpu")).any()
