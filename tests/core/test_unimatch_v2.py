"""UniMatch V2 as a method and as the base of CID: its published loss, its views, its dropout.

The reference is the training step of the authors' code (LiheYoung/UniMatch-V2, unimatch_v2.py),
written out here on fixed tensors. Their CutMix mixes with the mirrored batch; ours with the
neighbour. In a batch of two both are the other image.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from cid_ray.config import ModelConfig, shard_range
from cid_ray.core import augment
from cid_ray.core.distributed import BatchShard
from cid_ray.core.dropout import BatchIndex, ComplementaryDropout
from cid_ray.core.method import Method
from cid_ray.core.model import Segmenter
from cid_ray.core.views import strong_views
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

CONF_THRESH = 0.5
LABELED, PAIRS = 3, 8


# ---- the loss ----


def views_of(method: Method, image_u: Tensor, step: int) -> tuple[list[Tensor], list[Tensor]]:
    """The strong views before CutMix, and their boxes, from the same random numbers."""
    rng = augment.step_generator(method.config.train.seed, step)
    size = (image_u.shape[-2], image_u.shape[-1])
    images, boxes = [], []
    for _ in range(2):
        params = augment.sample_strong_view(len(image_u), size, rng)
        images.append(augment.strong_view(image_u, params))
        boxes.append(augment.cutmix_mask(params, size, image_u.device))
    return images, boxes


def published_loss(
    net: nn.Module, teacher: nn.Module, batch: dict[str, Tensor], method: Method, step: int
) -> Tensor:
    """The authors' training step, line by line; `ignore_mask` is 255 on padding."""
    criterion_l = nn.CrossEntropyLoss(ignore_index=255)
    criterion_u = nn.CrossEntropyLoss(reduction="none")
    ignore_mask = torch.where(batch["valid_u"], 0, 255)
    with torch.no_grad():
        pred_u_w = teacher(batch["image_u"])[0]
        conf_u_w = pred_u_w.softmax(dim=1).max(dim=1)[0]
        mask_u_w = pred_u_w.argmax(dim=1)
    images, boxes = views_of(method, batch["image_u"], step)
    preds, cut_masks, cut_confs, cut_ignores = [], [], [], []
    for image, cutmix_box in zip(images, boxes, strict=True):
        mixed = image.clone()
        expanded = cutmix_box.unsqueeze(1).expand(mixed.shape)
        mixed[expanded] = image.flip(0)[expanded]
        preds.append(net(mixed)[0])
        cut = [value.clone() for value in (mask_u_w, conf_u_w, ignore_mask)]
        for value, source in zip(cut, (mask_u_w, conf_u_w, ignore_mask), strict=True):
            value[cutmix_box] = source.flip(0)[cutmix_box]
        cut_masks.append(cut[0])
        cut_confs.append(cut[1])
        cut_ignores.append(cut[2])
    loss_x = criterion_l(net(batch["image_x"])[0], batch["mask_x"].long())
    losses_u = []
    for pred, mask, conf, ignore in zip(preds, cut_masks, cut_confs, cut_ignores, strict=True):
        loss_u = criterion_u(pred, mask)
        loss_u = loss_u * ((conf >= CONF_THRESH) & (ignore != 255))
        losses_u.append(loss_u.sum() / (ignore != 255).sum().item())
    loss_u_s = (losses_u[0] + losses_u[1]) / 2.0
    total: Tensor = (loss_x + loss_u_s) / 2.0
    return total


def test_loss_is_that_of_the_authors_code() -> None:
    batch, net, teacher = make_batch(count=2), PointNet(0), PointNet(1)
    method = make_method(make_config("unimatch_v2", conf_thresh=CONF_THRESH))
    for step in range(40):
        terms = method(net, teacher, batch, step)
        expected = published_loss(net, teacher, batch, method, step)
        torch.testing.assert_close(terms.total, expected)
        assert terms.pseudo > 0


def test_first_view_is_the_one_of_mean_teacher_and_the_second_differs() -> None:
    image_u = make_batch()["image_u"]
    shard = BatchShard(range(4), 4)
    one, one_boxes = strong_views(image_u, 1, 3, STEP, shard)
    two, two_boxes = strong_views(image_u, 2, 3, STEP, shard)
    assert torch.equal(one[0], two[0]) and torch.equal(one_boxes[0], two_boxes[0])
    assert not torch.equal(two[0], two[1])


def test_cid_on_unimatch_v2_with_weights_0_is_unimatch_v2() -> None:
    batch, net, teacher = make_batch(), PointNet(0), PointNet(1)
    zeroed = make_config("cid", base="unimatch_v2", relation_weight=0.0, style_weight=0.0)
    found = loss_terms(zeroed, net, teacher, batch)
    expected = loss_terms(make_config("unimatch_v2"), net, teacher, batch)
    assert_identical(found, expected, net)
    assert expected.pseudo > 0


def test_cid_on_unimatch_v2_has_relation_and_style_of_its_first_view() -> None:
    batch, net, teacher = make_batch(), PointNet(0), PointNet(1)
    on_two = loss_terms(make_config("cid", base="unimatch_v2"), net, teacher, batch)
    on_one = loss_terms(make_config("cid"), net, teacher, batch)
    torch.testing.assert_close(on_two.relation, on_one.relation)
    torch.testing.assert_close(on_two.style, on_one.style)
    assert on_two.pseudo != on_one.pseudo


# ---- complementary dropout ----


def make_dropout(indices: range | None = None, step: int = 3) -> ComplementaryDropout:
    total = LABELED + 2 * PAIRS
    index = BatchIndex(torch.tensor([*(indices or range(total))]), total, seed=0, step=step)
    return ComplementaryDropout(index, LABELED, PAIRS)


@pytest.mark.parametrize("channels", [16, 17])
def test_views_keep_complementary_channels_at_twice_their_value(channels: int) -> None:
    mask = make_dropout().mask(torch.ones(LABELED + 2 * PAIRS, channels, 2, 2))[:, :, 0, 0]
    labeled, one, two = mask.split([LABELED, PAIRS, PAIRS])
    assert (labeled == 1).all()
    assert (one + two == 2).all()
    whole = (one == 1).all(1)
    assert whole.sum() == PAIRS // 2
    dropped = one[~whole]
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    assert 0.25 < dropped.mean() / 2 < 0.75


def test_masks_depend_on_the_step_and_the_width_and_are_shared_by_maps_of_one_width() -> None:
    x = torch.ones(LABELED + 2 * PAIRS, 16, 1, 1)
    mask = make_dropout().mask(x)
    assert torch.equal(mask, make_dropout().mask(x.expand(-1, -1, 4, 4)))
    assert not torch.equal(mask, make_dropout(step=4).mask(x))
    wide = make_dropout().mask(torch.ones(LABELED + 2 * PAIRS, 32, 1, 1))
    assert not torch.equal(mask, wide[:, :16])


def test_a_worker_drops_what_one_process_drops_for_its_images() -> None:
    x = torch.ones(LABELED + 2 * PAIRS, 16, 1, 1)
    whole = make_dropout().mask(x)
    for rank in range(2):
        part = shard_range(LABELED + 2 * PAIRS, rank, 2)
        assert torch.equal(make_dropout(part).mask(x[: len(part)]), whole[[*part]])


def test_nothing_is_dropped_in_eval_mode() -> None:
    x = torch.rand(LABELED + 2 * PAIRS, 16, 2, 2)
    assert torch.equal(make_dropout().eval()(x), x)


@pytest.mark.parametrize(
    ("encoder", "decoder"),
    [("test_efficientnet", "fpn"), ("test_convnext", "unet"), ("test_vit", "dpt")],
)
def test_network_drops_from_every_map_of_the_encoder_but_not_from_the_image(
    encoder: str, decoder: str
) -> None:
    torch.manual_seed(0)
    net = Segmenter(ModelConfig(encoder=encoder, decoder=decoder), CLASSES)
    widths: list[int] = []

    class Recorder(nn.Module):
        forward: Callable[[Tensor], Tensor]

        def forward(self, x: Tensor) -> Tensor:  # type: ignore[no-redef]
            widths.append(x.shape[1])
            return x

    net.channel_dropout = Recorder()
    net.eval()(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    channels = list(net.net.encoder.out_channels)
    assert widths == (channels if decoder == "dpt" else channels[1:])
