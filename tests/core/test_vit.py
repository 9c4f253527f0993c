"""Contract: DPT on every kind of plain ViT, at any size. Laws of its geometry and of its weights.

A patch of 14 pixels is the case that is no power of two: its canvas is a multiple of 28 pixels, its
cells are 14 pixels wide. References: timm's own encoders, and timm's own loading of weights for
another image size.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from cid_ray.config import InputError, ModelConfig, build_config
from cid_ray.core.features import labels_to_grid, pool_features, pool_mixed
from cid_ray.core.model import Segmenter
from tests.helpers.core_pieces import KINDS, TERMS, make_batch, make_config, make_method
from tests.helpers.tiny_run import SMALL_DPT

CLASSES = 5
PATCH_14 = "eva02_tiny_patch14_224"
# Encoder -> its patch, stride of the canvas. dinov2 and deit have prefix tokens of several kinds.
ENCODERS = {
    "test_vit": (16, 32),
    "test_vit3": (16, 32),
    "vit_small_patch14_dinov2.lvd142m": (14, 28),
    "vit_small_patch14_reg4_dinov2": (14, 28),
    "vit_small_patch16_dinov3": (16, 32),
    "deit_tiny_distilled_patch16_224": (16, 32),
    "vit_small_patch8_224": (8, 32),
    "vit_small_patch32_224": (32, 32),
    "vit_tiny_r_s16_p8_224": (32, 32),
    PATCH_14: (14, 28),
}
UNUSED = ("norm.", "fc_norm.", "head", "attn_pool.")  # of timm's classifier
SIZES = [(65, 81), (28, 28), (100, 33)]


def known(*encoders: str) -> list[str]:
    """Those that this version of timm has: DINOv3 came with 1.0.20."""
    return [encoder for encoder in encoders if timm.is_model(encoder)]


def segmenter(encoder: str, channels: int = 3, seed: int = 0, **model: Any) -> Segmenter:
    torch.manual_seed(seed)
    model = {"decoder": "dpt", "decoder_options": SMALL_DPT, **model}
    config = ModelConfig.model_validate({"encoder": encoder, **model})
    stats = None if channels == 3 else ([90.0] * channels, [40.0] * channels)
    return Segmenter(config, CLASSES, stats)


def images(size: tuple[int, int], count: int = 2) -> torch.Tensor:
    rng = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, *size), dtype=torch.uint8, generator=rng)


def build_error(**model: Any) -> str:
    with pytest.raises(InputError) as caught:
        segmenter(**model)
    message = str(caught.value)
    assert "\n" not in message
    return message


# ---- any encoder, any size ----


@pytest.mark.parametrize("encoder", known(*ENCODERS))
def test_dpt_on_vit_at_any_size_gives_logits_cells_and_gradients(encoder: str) -> None:
    net = segmenter(encoder).train()
    patch, stride = ENCODERS[encoder]
    assert net.stride == stride
    for size in SIZES:
        logits, feat = net(images(size))
        assert logits.shape == (2, CLASSES, *size) and logits.isfinite().all()
        canvas = [-(-side // stride) * stride for side in size]
        cell = 14 if patch == 14 else 16
        valid = torch.ones(2, *size, dtype=torch.bool)
        pooled, cells = pool_features(feat, valid, stride)
        assert pooled.shape[-2:] == cells.shape[-2:] == tuple(side // cell for side in canvas)
        # Every cell that a pixel of the image is in, and no other.
        reached = [-(-side // cell) for side in size]
        assert cells[0, 0, : reached[0], : reached[1]].min() == 1
        assert cells.sum() == 2 * reached[0] * reached[1]
    logits.square().mean().backward()
    # DDP waits for the gradient of every weight.
    assert not [name for name, weight in net.named_parameters() if weight.grad is None]


@pytest.mark.parametrize("encoder", ["test_vit", PATCH_14])
def test_logits_of_a_padded_canvas_are_cropped_not_resized(encoder: str) -> None:
    net = segmenter(encoder).eval()
    canvas = torch.nn.functional.pad(images((65, 81)).float() - net.mean, (0, 31, 0, 47)) + net.mean
    height, width = (-(-side // net.stride) * net.stride for side in (65, 81))
    with torch.no_grad():
        expected = net(canvas[..., :height, :width])[0][..., :65, :81]
        torch.testing.assert_close(net(images((65, 81)))[0], expected)


@pytest.mark.parametrize("encoder", ["test_vit", PATCH_14])
@pytest.mark.parametrize("place", [(0, 0), (2, 4), (3, 1)])
def test_cell_and_logit_see_their_own_pixels_most(encoder: str, place: tuple[int, int]) -> None:
    """Padding, resizing and pooling move nothing: the gradient is largest in the same token.

    One layer is read, and the mean over four networks is taken: random weights may look elsewhere.
    """
    options = {**SMALL_DPT, "encoder_depth": 1, "decoder_intermediate_channels": [16]}
    patch = ENCODERS[encoder][0]
    size = (4 * patch - 3, 6 * patch - 5)
    rows, columns = (slice(i * patch + 4, i * patch + patch - 4) for i in place)
    by_token = torch.zeros(2, 4, 6)
    for seed in range(4):
        net = segmenter(encoder, seed=seed, decoder_options=options).eval()
        pixels = images(size, 1).float().requires_grad_()
        logits, feat = net(pixels)
        pooled, _ = pool_features(feat, torch.ones(1, *size, dtype=torch.bool), net.stride)
        for i, seen in enumerate((pooled[0, :, *place], logits[0, :, rows, columns])):
            (gradient,) = torch.autograd.grad(seen.square().sum(), pixels, retain_graph=True)
            padded = torch.nn.functional.pad(gradient.abs(), (0, 5, 0, 3))
            tokens = torch.nn.functional.avg_pool2d(padded, patch).sum((0, 1))
            by_token[i] += tokens / tokens.sum()
    for tokens in by_token:
        assert divmod(int(tokens.argmax()), 6) == place


def test_labels_boxes_and_features_share_one_grid_at_patch_14() -> None:
    size, stride = (50, 70), 28  # a canvas of 56 x 84: 4 x 6 cells of 14 pixels, 32 x 48 positions
    rows, columns = torch.arange(50) // 14, torch.arange(70) // 14
    classes = rows[:, None] * 6 + columns
    feat = torch.arange(4 * 6.0).reshape(1, 1, 4, 6).repeat_interleave(8, 2).repeat_interleave(8, 3)
    valid = torch.ones(1, *size, dtype=torch.bool)
    pooled, cells = pool_features(feat, valid, stride)
    grid = labels_to_grid(classes[None], pooled.shape[-2:], stride)
    inside = grid[0] != 255
    assert torch.equal(grid[0][inside].float(), pooled[0, 0][inside])
    assert torch.equal(inside, torch.arange(6).expand(4, 6) < 5)
    assert torch.equal(inside.float(), cells[0, 0])
    # One whole token is mixed: its cell is the partner's, and no other one is.
    both = torch.cat([feat, -1 - feat])
    box = torch.zeros(2, *size, dtype=torch.bool)
    box[:, 14:28, 28:42] = True
    mixed, _ = pool_mixed(both, box, valid.expand(2, -1, -1), stride)
    differs = mixed[0] != pooled[0]
    assert differs.sum() == 1 and mixed[0, 0, 1, 2] == -1 - pooled[0, 0, 1, 2]


@pytest.mark.parametrize("encoder", ["test_vit", PATCH_14])
@pytest.mark.parametrize("kind", KINDS)
def test_every_relation_reaches_the_encoder_of_a_vit(encoder: str, kind: str) -> None:
    student, teacher = segmenter(encoder).train(), segmenter(encoder).eval()
    config = make_config(relation_kind=kind)
    size = (50, 70)
    # Labels of a few classes: prototypes need one that both halves have.
    batch = make_batch(count=4, size=size)
    method = make_method(config, 16, stride=student.stride)
    terms = method(student, teacher, batch, 10)
    assert all(getattr(terms, name).isfinite() for name in TERMS)
    assert terms.relation > 0 and terms.style > 0
    terms.relation.backward()
    first = student.net.encoder.model.patch_embed.proj.weight.grad
    assert first is not None and first.isfinite().all() and first.abs().sum() > 0


# ---- weights ----


def published(folder: Path, encoder: str, **changes: Any) -> Path:
    """A file of timm's whole classifier with random weights."""
    torch.manual_seed(1)
    path = folder / f"{encoder}.safetensors"
    save_file(timm.create_model(encoder, **changes).state_dict(), path)
    return path


@pytest.mark.parametrize("encoder", known("test_vit", PATCH_14, "vit_small_patch16_dinov3"))
@pytest.mark.parametrize("channels", [3, 5])
def test_weights_of_another_image_size_are_loaded_as_timm_loads_them(
    tmp_path: Path, encoder: str, channels: int
) -> None:
    path = published(tmp_path, encoder, img_size=112)
    found = segmenter(encoder, channels, weights=str(path)).net.encoder.model.state_dict()
    reference = timm.create_model(
        encoder,
        in_chans=channels,
        dynamic_img_size=True,
        pretrained=True,
        pretrained_cfg_overlay={"file": str(path)},
    ).state_dict()
    assert all(name.startswith(UNUSED) for name in set(reference) - set(found))
    for name, value in found.items():
        torch.testing.assert_close(value, reference[name], rtol=0, atol=0, msg=name)


def test_features_of_published_weights_are_timms(tmp_path: Path) -> None:
    path = published(tmp_path, PATCH_14)
    net = segmenter(PATCH_14, weights=str(path)).eval()
    reference = timm.create_model(PATCH_14, dynamic_img_size=True).eval()
    reference.load_state_dict(load_file(path))
    x = torch.randn(1, 3, 56, 84, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found, prefix = net.net.encoder(x)
        expected = reference.forward_intermediates(
            x, indices=[2, 5, 8, 11], intermediates_only=True, return_prefix_tokens=True
        )
    for i, (feature, tokens) in enumerate(expected):
        torch.testing.assert_close(found[i], feature)
        torch.testing.assert_close(prefix[i], tokens)


def test_vit_weights_that_do_not_fit_are_refused_in_one_line(tmp_path: Path) -> None:
    path = published(tmp_path, "test_vit")
    state = load_file(path)
    del state["blocks.3.norm1.weight"]
    save_file(state, tmp_path / "missing.safetensors")
    message = build_error(encoder="test_vit", weights=str(tmp_path / "missing.safetensors"))
    assert "1 tensors missing" in message and "blocks.3.norm1.weight" in message
    state = load_file(path)
    for name, embedding in (("oblong", state["pos_embed"][:, :-3]), ("flat", torch.zeros(7))):
        save_file({**state, "pos_embed": embedding.clone()}, tmp_path / f"{name}.safetensors")
        message = build_error(encoder="test_vit", weights=str(tmp_path / f"{name}.safetensors"))
        assert "1 of another shape, first pos_embed" in message
    message = build_error(encoder="vit_tiny_patch16_224", weights=str(path))
    assert "of another shape" in message


# ---- what does not fit together ----


@pytest.mark.parametrize("encoder", ["test_efficientnet", "swin_tiny_patch4_window7_224"])
def test_dpt_on_another_encoder_raises_with_encoders_to_take(encoder: str) -> None:
    message = build_error(encoder=encoder)
    assert "model.decoder=dpt takes plain ViTs" in message and encoder in message
    assert "vit_small_patch14_dinov2" in message and "another decoder" in message


@pytest.mark.parametrize("decoder", ["fpn", "deeplabv3plus", "unet"])
def test_vit_with_another_decoder_raises_with_the_decoder_to_take(decoder: str) -> None:
    message = build_error(encoder="test_vit", decoder=decoder, decoder_options={})
    assert "test_vit is a plain ViT" in message and decoder in message and "take dpt" in message


def test_pair_that_does_not_fit_is_refused_before_the_table_is_opened() -> None:
    from cid_ray.training.preflight import check_data

    changes = {"data.table": "absent", "model.encoder": "test_vit", "model.decoder": "fpn"}
    with pytest.raises(InputError, match="take dpt"):
        check_data(build_config({}, changes))
