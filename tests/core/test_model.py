"""Contract: every decoder on every encoder, at odd sizes. Laws of weights files, normalization and impossible choices.

References: timm's own data configs and state dicts; a pooled cell is about 16 pixels a side on the canvas, which is the
image padded to a multiple of 32.
"""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from cid_ray.config import InputError, Model
from cid_ray.core.model import Segmenter, dilate_pointwise, normalization, pad_to_stride, pool_feat
from tests.support import real_data

CLASSES, SIZE, GRID = 5, (65, 81), (6, 6)
OFFLINE = """
from cid_ray.config import InputError, Model
from cid_ray.core.model import build
try:
    build(Model(encoder="resnet18", decoder="unet", weights="pretrained"), 3)
except InputError as error:
    print(error)
"""


def images(size: tuple[int, int] = SIZE) -> torch.Tensor:
    rng = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8, generator=rng)


def parameters(net: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items() if value.is_floating_point()}


# ---- contract -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoder", ["test_efficientnet", "test_resnet"])
def test_a_dilated_tap_is_the_same_convolution(encoder: str) -> None:
    net = Segmenter(Model(encoder=encoder, decoder="deeplabv3plus"), CLASSES)
    plain = copy.deepcopy(net)
    dilate_pointwise(net)
    pairs = [pair for pair in zip(plain.modules(), net.modules(), strict=True) if isinstance(pair[0], nn.Conv2d)]
    assert {conv.dilation for _, conv in pairs if conv.kernel_size == (1, 1)} == {(2, 2)}
    for before, after in pairs:
        if after.kernel_size != (1, 1):
            assert after.dilation == before.dilation
            continue
        image = torch.randn(2, after.in_channels, 9, 7).to(memory_format=torch.channels_last)
        one, other = before(image), after(image)
        one.square().mean().backward()
        other.square().mean().backward()
        for found, expected in ((other, one), (after.weight.grad, before.weight.grad)):
            assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()  # of sums over hundreds of channels


@pytest.mark.parametrize("decoder", ["deeplabv3plus", "fpn", "unet", "segformer"])
@pytest.mark.parametrize("encoder", ["test_efficientnet", "test_resnet"])
def test_every_decoder_serves_every_encoder_at_odd_sizes(encoder: str, decoder: str) -> None:
    net = Segmenter(Model(encoder=encoder, decoder=decoder), CLASSES).train()
    logits, feat = net(images())
    assert logits.shape == (2, CLASSES, *SIZE) and logits.isfinite().all()
    assert feat.shape[0] == 2 and feat.isfinite().all()
    pooled, cells = pool_feat(feat, torch.ones(2, *SIZE, dtype=torch.bool))
    assert pooled.shape == (2, feat.shape[1], *GRID) and pooled.dtype == torch.float32
    # 65 x 81 pixels reach into 5 x 6 of the canvas's 6 x 6 cells
    assert cells.shape == (2, 1, *GRID) and cells.sum((0, 1)).tolist() == [[2.0] * 6] * 5 + [[0.0] * 6]
    logits.float().square().mean().backward()
    first = next(iter(net.net.encoder.parameters()))
    assert first.grad is not None and first.grad.isfinite().all() and first.grad.abs().sum() > 0


@pytest.mark.parametrize("decoder", sorted(smp.MODEL_ARCHITECTURES_MAPPING))
def test_a_decoder_that_is_accepted_gives_logits_and_features_that_cells_divide(decoder: str) -> None:
    try:
        net = Segmenter(Model(encoder="test_resnet", decoder=decoder), CLASSES).eval()
    except InputError:
        return
    with torch.no_grad():
        logits, feat = net(images((128, 160)))
    assert logits.shape == (2, CLASSES, 128, 160)
    pooled, _ = pool_feat(feat.requires_grad_(), torch.ones(2, 128, 160, dtype=torch.bool))
    pooled.sum().backward()  # type: ignore[no-untyped-call]
    assert feat.grad is not None and feat.grad.min() > 0
    assert feat.grad.sum().item() == pytest.approx(pooled.numel(), rel=1e-4)


def test_the_gradient_of_pooled_features_is_that_of_plain_autograd() -> None:
    feat, valid = torch.randn(2, 5, 24, 32), torch.rand(2, 90, 120) > 0.5
    valid[1, :40] = False
    mine, theirs = (feat.clone().to(memory_format=torch.channels_last).requires_grad_() for _ in range(2))
    pooled, _ = pool_feat(mine, valid)
    fine = nn.functional.adaptive_max_pool2d(pad_to_stride(valid.float()[:, None]), feat.shape[-2:])
    share = nn.functional.avg_pool2d(fine, 4).clamp(min=1e-6)
    expected = nn.functional.avg_pool2d(theirs * fine, 4) / share
    weight = torch.randn_like(expected)
    (pooled * weight).sum().backward()
    (expected * weight).sum().backward()
    assert torch.equal(pooled, expected)
    assert mine.grad is not None and theirs.grad is not None and torch.equal(mine.grad, theirs.grad)


def test_logits_of_a_padded_canvas_are_cropped_not_resized() -> None:
    net = Segmenter(Model(encoder="test_resnet", decoder="fpn"), CLASSES).eval()
    canvas = torch.nn.functional.pad(images().float() - net.mean, (0, 15, 0, 31)) + net.mean
    with torch.no_grad():
        torch.testing.assert_close(net(images())[0], net(canvas)[0][..., :65, :81])


def test_decoder_options_reach_the_decoder() -> None:
    options = {"decoder_pyramid_channels": 64, "decoder_segmentation_channels": 32}
    net = Segmenter(Model(encoder="test_resnet", decoder="fpn", decoder_options=options), CLASSES)
    assert net(images())[1].shape[1] == 32


# ---- normalization --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoder", ["tf_efficientnet_lite0", "resnet18", "test_efficientnet"])
def test_normalization_is_that_of_timms_config(encoder: str) -> None:
    config = timm.get_pretrained_cfg(encoder)
    assert normalization(encoder) == (tuple(config.mean), tuple(config.std))


def test_lite0_is_centred_at_a_half_and_resnets_at_imagenets_mean() -> None:
    assert normalization("tf_efficientnet_lite0") == ((0.5,) * 3, (0.5,) * 3)
    assert normalization("resnet18") == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_the_network_sees_normalized_pixels() -> None:
    net = Segmenter(Model(encoder="tf_efficientnet_lite0", decoder="fpn"), CLASSES).eval()
    image = images((64, 64))
    with torch.no_grad():
        expected = net.net((image.float() / 255 - 0.5) / 0.5)
        torch.testing.assert_close(net(image)[0], expected)


# ---- weights --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoder", ["test_efficientnet", "test_resnet", "test_convnext"])
def test_weights_of_a_local_timm_file_are_those_of_the_encoder(tmp_path: Path, encoder: str) -> None:
    """The file is what timm publishes: the whole classifier's state dict, under its own names."""
    torch.manual_seed(1)
    published = timm.create_model(encoder).eval()
    path = tmp_path / f"{encoder}.safetensors"
    save_file(published.state_dict(), path)
    torch.manual_seed(2)
    net = Segmenter(Model(encoder=encoder, decoder="fpn", weights=str(path)), CLASSES).eval()
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        deepest = net.net.encoder(x)[-1]
        expected = published.forward_intermediates(x, indices=1, intermediates_only=True, norm=False)[-1]
    torch.testing.assert_close(deepest, expected)


def test_an_encoders_own_weights_are_saved_and_loaded_back(tmp_path: Path) -> None:
    torch.manual_seed(1)
    one = Segmenter(Model(encoder="test_efficientnet", decoder="fpn"), CLASSES).net.encoder.model
    path = tmp_path / "own.safetensors"
    save_file(one.state_dict(), path)
    torch.manual_seed(2)
    other = Segmenter(Model(encoder="test_efficientnet", decoder="fpn", weights=str(path)), CLASSES).net.encoder.model
    torch.testing.assert_close(parameters(other), parameters(one), rtol=0, atol=0)
    untrained = Segmenter(Model(encoder="test_efficientnet", decoder="fpn"), CLASSES).net.encoder.model
    assert not torch.equal(untrained.conv_stem.weight, one.conv_stem.weight)


def refused(**choice: object) -> str:
    with pytest.raises(InputError) as caught:
        Segmenter(Model.model_validate({"encoder": "test_resnet", "decoder": "fpn", **choice}), CLASSES)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_weights_of_another_model_are_refused_with_the_first_missing_tensor(tmp_path: Path) -> None:
    path = tmp_path / "wrong.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), path)
    message = refused(encoder="test_efficientnet", weights=str(path))
    assert str(path) in message and "missing" in message and "conv_stem.weight" in message


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    state = timm.create_model("test_resnet").state_dict()
    state["conv1.0.weight"] = torch.zeros(3, 3, 3, 3)
    save_file(state, tmp_path / "shape.safetensors")
    message = refused(weights=str(tmp_path / "shape.safetensors"))
    assert "1 of another shape" in message and "conv1.0.weight" in message


def test_a_weights_file_that_is_absent_or_no_safetensors_file_is_refused(tmp_path: Path) -> None:
    absent, text = tmp_path / "absent.safetensors", tmp_path / "text.safetensors"
    text.write_text("weights")
    for path in (absent, text):
        message = refused(weights=str(path))
        assert str(path) in message and "cannot be read" in message


def test_pretrained_weights_without_the_hub_are_refused_with_the_remedy(tmp_path: Path) -> None:
    """In a process of its own, because the hub's client reads its settings once."""
    settings = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "TORCH_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE], env=os.environ | settings, capture_output=True, text=True, check=True
    )
    line = done.stdout.strip()
    assert line.startswith("model.weights=pretrained") and "resnet18" in line and "\n" not in line
    assert "model.weights=FILE.safetensors" in line and "model.weights=none" in line


def test_the_published_lite0_weights_fill_the_encoder() -> None:
    path = real_data("weights", "tf_efficientnet_lite0.safetensors")
    config = Model(encoder="tf_efficientnet_lite0", decoder="fpn", weights=str(path))
    one, other = Segmenter(config, CLASSES), Segmenter(config, CLASSES)
    torch.testing.assert_close(parameters(one.net.encoder), parameters(other.net.encoder), rtol=0, atol=0)
    assert not torch.equal(one.net.segmentation_head[0].weight, other.net.segmentation_head[0].weight)
    deepest = one.eval().net.encoder(torch.zeros(1, 3, 64, 64))[-1]
    assert deepest.isfinite().all() and deepest.std() > 0.01


# ---- impossible choices ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("tf_efficientnet_lite9", "tf_efficientnet_lite"),
        ("resnet51", "resnet50"),
        ("efficientnetb0", "efficientnet_b0"),
    ],
)
def test_an_unknown_encoder_is_refused_with_near_names(typed: str, meant: str) -> None:
    message = refused(encoder=typed)
    assert "model.encoder" in message and typed in message
    assert meant in message.replace(typed, "")


def test_an_unknown_decoder_is_refused_with_the_names_there_are() -> None:
    message = refused(decoder="deeplabv3+")
    assert "model.decoder" in message and "'deeplabv3+'" in message and "deeplabv3plus" in message


def test_an_unknown_decoder_option_is_refused_with_the_names_there_are() -> None:
    message = refused(decoder_options={"decoder_pyramid_chanels": 32})
    assert "model.decoder_options" in message and "'decoder_pyramid_chanels'" in message
    assert "decoder_pyramid_channels" in message


def test_an_encoder_that_the_decoder_cannot_use_is_refused() -> None:
    message = refused(encoder="test_vit", decoder="unet")
    assert "unet" in message and "test_vit" in message


def test_an_option_with_an_impossible_value_is_refused() -> None:
    message = refused(decoder_options={"decoder_segmentation_channels": 33})
    assert "fpn" in message and "33" in message
