"""Law: statistics are those of the GLOBAL batch, whatever the number of workers.

Four processes (gloo) with two images of each kind give the losses and gradients of one process with
eight, to 1e-5 in float32, for every relation, every style and both cross-entropies. Gradients are
averaged over workers as DDP averages them. Workers hold unequal numbers of ignored and padded
pixels, the last one has no labeled pixel, and not every worker sees every class. Two steps, so that
the EMA statistics are compared too.
"""

from __future__ import annotations

from multiprocessing import set_forkserver_preload
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from cid_ray.config import build_config
from cid_ray.core import augment, distributed
from cid_ray.core.method import Method
from tests.helpers.core_pieces import (
    CHANNELS,
    CLASSES,
    Batch,
    PointNet,
    gradients,
    make_batch,
    prefix,
)

WORLD_SIZE = 4
BATCH_SIZE = 8
STEPS = 2
SIZE = (32, 64)
TERMS = ("sup", "pseudo", "relation", "style", "total")
VARIANTS: dict[str, dict[str, Any]] = {
    "cross": {"relation_kind": "cross"},
    "self": {"relation_kind": "self"},
    "self on a grid": {"relation_kind": "self", "relation_grid": 2, "style_target": "labeled"},
    "transfer": {"relation_kind": "transfer", "style_stat": "gram"},
    "class": {
        "relation_kind": "class",
        "relation_temperature": 0.5,
        "style_stat": "gram",
        "style_target": "symmetric",
    },
    "soft": {"pseudo": "soft", "style_target": "symmetric"},
    "two strong views": {"base": "unimatch_v2"},
    "cross, memory": {"relation_kind": "cross", "labeled_memory": 11},
    "class, memory": {"relation_kind": "class", "labeled_memory": 11},
    "transfer, memory": {"relation_kind": "transfer", "labeled_memory": 1},
    "thresholds": {"threshold": "class_adaptive", "align_distribution": True},
    "class weights": {"relation_weight": 0.0, "style_weight": 0.0},
}
Results = dict[str, dict[str, Tensor]]  # term -> "loss" or parameter -> value or gradient


def global_batch() -> Batch:
    """Eight images; the last two have no labeled pixel, class 0 is in the first four only."""
    batch = make_batch(seed=5, count=BATCH_SIZE, size=SIZE)
    batch["mask_x"][-2:] = 255
    batch["valid_u"][5:, 20:] = False
    later = batch["mask_x"][4:]
    later[later == 0] = 1
    return batch


def run_steps(variant: str, batch: Batch, rank: int, world_size: int) -> Results:
    """Values and gradients of the last step, averaged over workers, and the EMA statistics."""
    no_ramps = {"pseudo_ramp": 0, "relation_ramp": 0, "style_ramp": 0}
    loss = {"conf_thresh": 0.4, **no_ramps, **VARIANTS[variant]}
    weights = torch.tensor([0.2, 1.0, 3.0, 0.5]) if variant == "class weights" else None
    config = build_config({"loss": loss}, ())
    shape = (CHANNELS, SIZE[0] // 16, SIZE[1] // 16)
    method = Method(config, CLASSES, [shape], weights)
    count = BATCH_SIZE // world_size
    local = {name: value[rank * count : (rank + 1) * count] for name, value in batch.items()}
    student, teacher = PointNet(0), nearby_teacher()
    for step in range(STEPS):
        terms = method(student, teacher, local, step, rank, world_size)
    results = {}
    for name in TERMS:
        value = getattr(terms, name)
        results[name] = {"loss": mean_over_workers(value.detach())}
        results[name] |= {k: mean_over_workers(v) for k, v in gradients(value, student).items()}
    results["mask_ratio"] = {"loss": mean_over_workers(terms.mask_ratio)}
    results["statistics"] = {
        k: v.clone() for k, v in method.named_buffers() if k != "class_weights"
    }
    return results


def nearby_teacher() -> PointNet:
    """The student's weights moved a third of the way to those of another network."""
    net = PointNet(0)
    with torch.no_grad():
        for value, other in zip(net.parameters(), PointNet(1).parameters(), strict=True):
            value.lerp_(other, 1 / 3)
    return net


def mean_over_workers(value: Tensor) -> Tensor:
    value = value.clone()
    if distributed.world_size() > 1:
        dist.all_reduce(value)
    return value / distributed.world_size()


def worker(rank: int, root: str) -> None:
    torch.set_num_threads(1)
    address = f"file://{root}/rendezvous"  # a free port may be taken before it is used
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=WORLD_SIZE)
    results = {
        variant: run_steps(variant, global_batch(), rank, WORLD_SIZE) for variant in VARIANTS
    }
    torch.save(results, Path(root) / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def of_four_workers(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Results]]:
    """The results of each of the four workers, by variant."""
    root = tmp_path_factory.mktemp("workers")
    set_forkserver_preload(["cid_ray.core.method"])  # imported once, not four times
    mp.start_processes(worker, (str(root),), nprocs=WORLD_SIZE, start_method="forkserver")
    return [torch.load(root / f"{rank}.pt", weights_only=True) for rank in range(WORLD_SIZE)]


@pytest.mark.process
@pytest.mark.parametrize("variant", VARIANTS)
def test_four_workers_give_the_losses_and_gradients_of_one(
    of_four_workers: list[dict[str, Results]], variant: str
) -> None:
    expected = run_steps(variant, global_batch(), 0, 1)
    for results in of_four_workers:
        found = results[variant]
        assert found.keys() == expected.keys()
        for term, values in expected.items():
            torch.testing.assert_close(
                found[term],
                values,
                atol=1e-5,
                rtol=1e-5,
                msg=prefix(f"{term} of {variant}"),
            )


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_compared_term_is_at_work(variant: str) -> None:
    results = run_steps(variant, global_batch(), 0, 1)
    distills = variant != "class weights"
    for term in TERMS:
        at_work = distills or term not in ("relation", "style")
        assert (results[term]["loss"] > 1e-4) == at_work, term
        assert (results[term]["body.weight"].abs().max() > 1e-4) == at_work, term


def test_compared_workers_hold_unequal_numbers_of_pixels_and_mixed_images() -> None:
    batch = global_batch()
    for mask in (batch["mask_x"] != 255, batch["valid_u"]):
        assert len(set(mask.reshape(WORLD_SIZE, -1).sum(1).tolist())) > 2
    params = augment.sample_strong_view(BATCH_SIZE, SIZE, augment.step_generator(0, STEPS - 1))
    assert augment.cutmix_mask(params, SIZE, torch.device("cpu")).any()
