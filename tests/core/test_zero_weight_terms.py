"""Law: a term of weight 0 changes no other number, bit by bit."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from cid_ray.config import ModelConfig
from cid_ray.core.model import Segmenter, make_teacher
from tests.helpers.core_pieces import (
    CLASSES,
    STEP,
    PointNet,
    assert_identical,
    loss_terms,
    make_batch,
    make_config,
    make_method,
)


@pytest.mark.parametrize(
    ("zeroed", "method", "without"),
    [
        ({"relation_weight": 0, "style_weight": 0}, "cid", "mean_teacher"),
        ({"pseudo_weight": 0}, "mean_teacher", "pool_bn"),
        ({"pseudo_weight": 0, "relation_weight": 0, "style_weight": 0}, "cid", "pool_bn"),
    ],
)
def test_method_with_weights_0_equals_the_method_without_those_terms(
    zeroed: dict[str, Any], method: str, without: str
) -> None:
    """On a whole network with batch norm and dropout, from one state of torch's generator."""
    options = {
        "decoder_pyramid_channels": 32,
        "decoder_segmentation_channels": 32,
        "decoder_dropout": 0.2,
    }
    model = ModelConfig(encoder="test_efficientnet", decoder="fpn", decoder_options=options)
    torch.manual_seed(0)
    student = Segmenter(model, CLASSES)
    twin, teacher, batch = copy.deepcopy(student), make_teacher(student, 0.9), make_batch()
    torch.manual_seed(1)
    found = make_method(make_config(method, **zeroed), 32)(student.train(), teacher, batch, STEP)
    torch.manual_seed(1)
    expected = make_method(make_config(without), 32)(twin.train(), teacher, batch, STEP)
    assert_identical(found, expected, student, twin)
    assert (found.pseudo > 0) == (without == "mean_teacher")
    buffers = dict(twin.named_buffers())
    assert all(torch.equal(v, buffers[k]) for k, v in student.named_buffers())


@pytest.mark.parametrize("term", ["pseudo", "relation", "style"])
def test_weight_0_changes_no_other_term(term: str) -> None:
    batch, net, teacher = make_batch(), PointNet(0), PointNet(1)
    whole = loss_terms(make_config(), net, teacher, batch)
    zeroed: dict[str, Any] = {f"{term}_weight": 0}
    without = loss_terms(make_config(**zeroed), net, teacher, batch)
    assert getattr(without, term) == 0 and getattr(whole, term) > 0
    for name in {"sup", "pseudo", "relation", "style"} - {term}:
        assert torch.equal(getattr(without, name), getattr(whole, name)), name
