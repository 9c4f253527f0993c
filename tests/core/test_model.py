"""Contract: every decoder on every encoder, at odd sizes. Laws of weights files and of errors.

References: timm's own data configs and state dicts. The canvas is the image padded to a multiple of
32 pixels; a pooled cell is about 16 pixels wide.
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

from cid_ray.config import InputError, ModelConfig
from cid_ray.core.features import pool_features
from cid_ray.core.model import Segmenter, dilate_pointwise, encoder_normalization
from tests.helpers.tiny_run import real_data

CLASSES = 5
SIZE = (65, 81)
GRID = (6, 6)
BUILD_PRETRAINED = """
from cid_ray.config import InputError, ModelConfig
from cid_ray.core.model import build_network
for encoder, decoder in (("resnet18", "unet"), ("vit_small_patch14_dinov2", "dpt")):
    try:
        build_network(ModelConfig(encoder=encoder, decoder=decoder, weights="pretrained"), 3)
    except InputError as error:
        print(error)
"""


def segmenter(encoder: str = "test_resnet", decoder: str = "fpn", **model: object) -> Segmenter:
    config = {"encoder": encoder, "decoder": decoder, **model}
    return Segmenter(ModelConfig.model_validate(config), CLASSES)


def images(size: tuple[int, int] = SIZE) -> torch.Tensor:
    rng = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8, generator=rng)


def parameters(net: nn.Module) -> dict[str, torch.Tensor]:
    state = net.state_dict().items()
    return {name: value.clone() for name, value in state if value.is_floating_point()}


def build_error(**model: object) -> str:
    """The one-line message of the InputError for a `model` section."""
    with pytest.raises(InputError) as caught:
        segmenter(**model)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("encoder", ["test_efficientnet", "test_resnet"])
def test_dilated_pointwise_convolution_equals_the_undilated_one(encoder: str) -> None:
    net = segmenter(encoder, "deeplabv3plus")
    plain = copy.deepcopy(net)
    dilate_pointwise(net)
    modules = zip(plain.modules(), net.modules(), strict=True)
    pairs = [(a, b) for a, b in modules if isinstance(a, nn.Conv2d) and isinstance(b, nn.Conv2d)]
    assert {conv.dilation for _, conv in pairs if conv.kernel_size == (1, 1)} == {(2, 2)}
    for before, after in pairs:
        if after.kernel_size != (1, 1):
            assert after.dilation == before.dilation
            continue
        image = torch.randn(2, after.in_channels, 9, 7).to(memory_format=torch.channels_last)
        expected, found = before(image), after(image)
        expected.square().mean().backward()
        found.square().mean().backward()
        assert before.weight.grad is not None and after.weight.grad is not None
        compared = ((found, expected), (after.weight.grad, before.weight.grad))
        for value, reference in compared:
            # Sums over hundreds of channels: relative to the largest value.
            assert (value - reference).abs().max() <= 1e-5 * reference.abs().max()


@pytest.mark.parametrize("decoder", ["deeplabv3plus", "fpn", "unet", "segformer"])
@pytest.mark.parametrize("encoder", ["test_efficientnet", "test_resnet"])
def test_decoder_on_encoder_at_odd_size_gives_logits_and_cells(encoder: str, decoder: str) -> None:
    net = segmenter(encoder, decoder).train()
    logits, feat = net(images())
    assert logits.shape == (2, CLASSES, *SIZE) and logits.isfinite().all()
    assert feat.shape[0] == 2 and feat.isfinite().all()
    pooled, cells = pool_features(feat, torch.ones(2, *SIZE, dtype=torch.bool), 32)
    assert pooled.shape == (2, feat.shape[1], *GRID) and pooled.dtype == torch.float32
    # 65 x 81 pixels reach into 5 x 6 of the canvas's 6 x 6 cells.
    assert cells.shape == (2, 1, *GRID)
    assert cells.sum((0, 1)).tolist() == [[2.0] * 6] * 5 + [[0.0] * 6]
    logits.float().square().mean().backward()
    first = next(iter(net.net.encoder.parameters()))
    assert first.grad is not None and first.grad.isfinite().all() and first.grad.abs().sum() > 0


@pytest.mark.parametrize("decoder", sorted(smp.MODEL_ARCHITECTURES_MAPPING))
def test_decoder_that_is_accepted_gives_features_that_cells_divide(decoder: str) -> None:
    try:
        net = segmenter("test_resnet", decoder).eval()
    except InputError:
        return
    with torch.no_grad():
        logits, feat = net(images((128, 160)))
    assert logits.shape == (2, CLASSES, 128, 160)
    pooled, _ = pool_features(feat.requires_grad_(), torch.ones(2, 128, 160, dtype=torch.bool), 32)
    pooled.sum().backward()
    assert feat.grad is not None and feat.grad.min() > 0
    assert feat.grad.sum().item() == pytest.approx(pooled.numel(), rel=1e-4)


def test_logits_of_a_padded_canvas_are_cropped_not_resized() -> None:
    net = segmenter().eval()
    canvas = nn.functional.pad(images().float() - net.mean, (0, 15, 0, 31)) + net.mean
    with torch.no_grad():
        torch.testing.assert_close(net(images())[0], net(canvas)[0][..., :65, :81])


def test_decoder_options_change_the_decoder() -> None:
    options = {"decoder_pyramid_channels": 64, "decoder_segmentation_channels": 32}
    assert segmenter(decoder_options=options)(images())[1].shape[1] == 32


@pytest.mark.parametrize("encoder", ["tf_efficientnet_lite0", "resnet18", "test_efficientnet"])
def test_normalization_equals_timms_config(encoder: str) -> None:
    config = timm.get_pretrained_cfg(encoder)
    assert encoder_normalization(encoder) == (tuple(config.mean), tuple(config.std))


def test_normalization_of_lite0_is_a_half_and_of_resnet_imagenets() -> None:
    assert encoder_normalization("tf_efficientnet_lite0") == ((0.5,) * 3, (0.5,) * 3)
    imagenet = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert encoder_normalization("resnet18") == imagenet


def test_network_sees_normalized_pixels() -> None:
    torch.manual_seed(0)
    net = segmenter("tf_efficientnet_lite0").eval()
    image = images((64, 64))
    with torch.no_grad():
        expected = net.net((image.float() / 255 - 0.5) / 0.5)
        torch.testing.assert_close(net(image)[0], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("encoder", ["test_efficientnet", "test_resnet", "test_convnext"])
def test_weights_of_a_published_file_give_the_published_encoder(
    tmp_path: Path, encoder: str
) -> None:
    """timm publishes the state dict of the whole classifier, under its own names."""
    torch.manual_seed(1)
    published = timm.create_model(encoder).eval()
    path = tmp_path / f"{encoder}.safetensors"
    save_file(published.state_dict(), path)
    torch.manual_seed(2)
    net = segmenter(encoder, weights=str(path)).eval()
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        deepest = net.net.encoder(x)[-1]
        expected = published.forward_intermediates(
            x, indices=1, intermediates_only=True, norm=False
        )[-1]
    torch.testing.assert_close(deepest, expected)


def test_encoders_own_weights_after_saving_load_back(tmp_path: Path) -> None:
    torch.manual_seed(1)
    saved = segmenter("test_efficientnet").net.encoder.model
    path = tmp_path / "own.safetensors"
    save_file(saved.state_dict(), path)
    torch.manual_seed(2)
    loaded = segmenter("test_efficientnet", weights=str(path)).net.encoder.model
    torch.testing.assert_close(parameters(loaded), parameters(saved), rtol=0, atol=0)
    untrained = segmenter("test_efficientnet").net.encoder.model
    assert not torch.equal(untrained.conv_stem.weight, saved.conv_stem.weight)


def test_weights_of_another_model_raise_with_the_first_missing_tensor(tmp_path: Path) -> None:
    path = tmp_path / "wrong.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), path)
    message = build_error(encoder="test_efficientnet", weights=str(path))
    assert str(path) in message and "missing" in message and "conv_stem.weight" in message


def test_weights_that_are_no_finite_numbers_raise(tmp_path: Path) -> None:
    state = timm.create_model("test_efficientnet").state_dict()
    for name, value in (("nan", torch.nan), ("inf", -torch.inf)):
        changed = {key: tensor.clone() for key, tensor in state.items()}
        changed["conv_stem.weight"][0, 0, 0, 0] = value
        save_file(changed, tmp_path / f"{name}.safetensors")
        path = str(tmp_path / f"{name}.safetensors")
        message = build_error(encoder="test_efficientnet", weights=path)
        assert f"{name}.safetensors: conv_stem.weight holds values that are no finite" in message


def test_weights_of_another_shape_raise(tmp_path: Path) -> None:
    state = timm.create_model("test_resnet").state_dict()
    state["conv1.0.weight"] = torch.zeros(3, 3, 3, 3)
    save_file(state, tmp_path / "shape.safetensors")
    message = build_error(weights=str(tmp_path / "shape.safetensors"))
    assert "1 of another shape" in message and "conv1.0.weight" in message


def test_weights_file_that_is_absent_or_not_safetensors_raises(tmp_path: Path) -> None:
    absent, text = tmp_path / "absent.safetensors", tmp_path / "text.safetensors"
    text.write_text("weights")
    for path in (absent, text):
        message = build_error(weights=str(path))
        assert str(path) in message and "cannot be read" in message


@pytest.mark.process
def test_pretrained_weights_without_the_hub_raise_with_the_remedy(tmp_path: Path) -> None:
    """In a process of its own, because the hub's client reads its environment once."""
    folder = str(tmp_path)
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": folder, "TORCH_HOME": folder}
    done = subprocess.run(
        [sys.executable, "-c", BUILD_PRETRAINED],
        env=os.environ | offline | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 2 and "resnet18" in lines[0] and "vit_small_patch14_dinov2" in lines[1]
    for line in lines:
        assert line.startswith("model.weights=pretrained")
        assert "model.weights=FILE.safetensors" in line and "model.weights=none" in line


def test_published_lite0_weights_fill_the_encoder() -> None:
    path = real_data("weights", "tf_efficientnet_lite0.safetensors")
    one, other = (segmenter("tf_efficientnet_lite0", weights=str(path)) for _ in range(2))
    encoders = [parameters(net.net.encoder) for net in (one, other)]
    torch.testing.assert_close(*encoders, rtol=0, atol=0)
    heads = [net.net.segmentation_head[0].weight for net in (one, other)]
    assert not torch.equal(*heads)
    deepest = one.eval().net.encoder(torch.zeros(1, 3, 64, 64))[-1]
    assert deepest.isfinite().all() and deepest.std() > 0.01


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("tf_efficientnet_lite9", "tf_efficientnet_lite"),
        ("resnet51", "resnet50"),
        ("efficientnetb0", "efficientnet_b0"),
    ],
)
def test_unknown_encoder_raises_with_similar_names(typed: str, meant: str) -> None:
    message = build_error(encoder=typed)
    assert "model.encoder" in message and typed in message
    assert meant in message.replace(typed, "")


def test_unknown_decoder_raises_with_the_names_there_are() -> None:
    message = build_error(decoder="deeplabv3+")
    assert "model.decoder" in message and "'deeplabv3+'" in message and "deeplabv3plus" in message


def test_unknown_decoder_option_raises_with_the_names_there_are() -> None:
    message = build_error(decoder_options={"decoder_pyramid_chanels": 32})
    assert "model.decoder_options" in message and "'decoder_pyramid_chanels'" in message
    assert "decoder_pyramid_channels" in message


def test_encoder_that_the_decoder_cannot_use_raises() -> None:
    message = build_error(encoder="test_vit", decoder="unet")
    assert "unet" in message and "test_vit" in message


def test_decoder_option_with_an_impossible_value_raises() -> None:
    message = build_error(decoder_options={"decoder_segmentation_channels": 33})
    assert "fpn" in message and "'decoder_segmentation_channels': 33" in message
