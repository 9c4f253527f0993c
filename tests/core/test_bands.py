"""Laws of images of 1 to 16 channels in the network and in the strong view.

References: timm's own loading of pretrained weights, torchvision on each band, and the network
of three channels on the same picture.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
import torchvision.transforms.v2.functional as V
from safetensors.torch import save_file
from torch import Tensor

from cid_ray.config import InputError, ModelConfig
from cid_ray.core import augment, color
from cid_ray.core.model import Segmenter
from tests.helpers.tiny_run import real_data

CLASSES = 4
ENCODERS = ["test_resnet", "test_efficientnet", "test_convnext"]
CHANNELS = [1, 2, 5, 16]


def segmenter(
    channels: int, weights: str | Path = "none", encoder: str = "test_resnet"
) -> Segmenter:
    config = ModelConfig(encoder=encoder, decoder="fpn", weights=str(weights))
    stats = None if channels == 3 else ([100.0] * channels, [50.0] * channels)
    torch.manual_seed(0)
    return Segmenter(config, CLASSES, stats)


def images(channels: int, size: tuple[int, int] = (32, 32), count: int = 4) -> Tensor:
    rng = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, channels, *size), dtype=torch.uint8, generator=rng)


def published_weights(folder: Path, encoder: str, channels: int = 3) -> Path:
    """Weights of a whole classifier, as timm publishes them."""
    torch.manual_seed(1)
    path = folder / "weights.safetensors"
    save_file(timm.create_model(encoder, in_chans=channels).state_dict(), path)
    return path


# ---- weights ----


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("encoder", ENCODERS)
def test_weights_from_a_file_are_adapted_as_timm_adapts_its_own(
    tmp_path: Path, encoder: str, channels: int
) -> None:
    path = published_weights(tmp_path, encoder)
    found = segmenter(channels, path, encoder).net.encoder.model.state_dict()
    reference = timm.create_model(
        encoder,
        features_only=True,
        in_chans=channels,
        pretrained=True,
        pretrained_cfg_overlay={"file": str(path)},
    ).state_dict()
    assert found.keys() == reference.keys()
    for name, value in reference.items():
        assert torch.equal(found[name], value), name


def test_repeated_channels_are_seen_as_the_picture_they_repeat(tmp_path: Path) -> None:
    path = published_weights(tmp_path, "test_resnet")
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = segmenter(3, path).net.encoder.eval()(x)
        found = segmenter(6, path).net.encoder.eval()(torch.cat([x, x], 1))
    for one, other in zip(found[1:], expected[1:], strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_weights_of_the_same_channels_are_loaded_as_they_are(tmp_path: Path) -> None:
    path = published_weights(tmp_path, "test_resnet", 5)
    torch.manual_seed(1)
    published = timm.create_model("test_resnet", in_chans=5).state_dict()
    found = segmenter(5, path).net.encoder.model.state_dict()
    assert torch.equal(found["conv1.0.weight"], published["conv1.0.weight"])


@pytest.mark.parametrize(("published", "channels"), [(4, 5), (5, 3)])
def test_weights_of_other_channels_are_refused(
    tmp_path: Path, published: int, channels: int
) -> None:
    path = published_weights(tmp_path, "test_resnet", published)
    with pytest.raises(InputError, match=r"1 of another shape, first conv1\.0\.weight"):
        segmenter(channels, path)


@pytest.mark.data
def test_published_lite0_weights_fill_an_encoder_of_five_channels() -> None:
    path = real_data("weights", "tf_efficientnet_lite0.safetensors")
    encoder = segmenter(5, path, "tf_efficientnet_lite0").net.encoder.model
    in_rgb = segmenter(3, path, "tf_efficientnet_lite0").net.encoder.model
    adapted = encoder.conv_stem.weight
    assert adapted.shape[1] == 5
    torch.testing.assert_close(adapted[:, :3], in_rgb.conv_stem.weight * 3 / 5)
    torch.testing.assert_close(adapted[:, 3:], in_rgb.conv_stem.weight[:, :2] * 3 / 5)


# ---- the network ----


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("decoder", ["fpn", "unet"])
def test_network_takes_images_of_its_channels(channels: int, decoder: str) -> None:
    stats = ([100.0] * channels, [50.0] * channels)
    net = Segmenter(ModelConfig(encoder="test_resnet", decoder=decoder), CLASSES, stats).eval()
    with torch.no_grad():
        logits, _ = net(images(channels, (65, 81)))
    assert net.in_channels == channels
    assert logits.shape == (4, CLASSES, 65, 81) and logits.isfinite().all()


def test_network_sees_bands_of_mean_0_and_deviation_1() -> None:
    pixels = images(5, (64, 64)).float() * torch.tensor([1, 0.5, 0.1, 0.9, 0.3]).view(-1, 1, 1)
    image = pixels.to(torch.uint8)
    values = image.float().transpose(0, 1).flatten(1)
    mean, std = values.mean(1).tolist(), values.std(1).tolist()
    net = Segmenter(ModelConfig(encoder="test_resnet", decoder="fpn"), CLASSES, (mean, std)).eval()
    x = (image.float() - net.mean) / net.std
    torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(5), atol=1e-3, rtol=0)
    torch.testing.assert_close(x.std((0, 2, 3)), torch.ones(5), atol=1e-3, rtol=0)
    with torch.no_grad():
        torch.testing.assert_close(net(image)[0], net.net(x), atol=1e-4, rtol=1e-4)


def test_band_of_one_value_gives_finite_numbers() -> None:
    config = ModelConfig(encoder="test_resnet", decoder="fpn")
    net = Segmenter(config, CLASSES, ([7.0, 100.0], [0.0, 50.0])).eval()
    with torch.no_grad():
        assert net(images(2))[0].isfinite().all()


def test_state_has_the_statistics_of_bands_and_not_those_of_rgb() -> None:
    assert {"mean", "std"} <= segmenter(5).state_dict().keys()
    assert not {"mean", "std"} & segmenter(3).state_dict().keys()


# ---- the strong view ----


def params(step: int = 0) -> augment.StrongViewParams:
    return augment.sample_strong_view(4, (32, 32), augment.step_generator(0, step))


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_strong_view_treats_every_band_alone(channels: int) -> None:
    image = images(channels)
    for step in range(4):
        found = augment.strong_view(image, params(step))
        assert found.dtype == torch.uint8 and not torch.equal(found, image)
        for band in range(channels):
            alone = augment.strong_view(image[:, band : band + 1], params(step))
            difference = (found[:, band : band + 1].int() - alone.int()).abs()
            assert difference.max() <= 1 and (difference > 0).float().mean() < 0.01


def test_contrast_of_bands_equals_torchvisions_of_grey_images() -> None:
    image = images(5)
    factors = torch.tensor([0.5, 0.8, 1.1, 1.5])
    found = color.adjust_band_contrast(image.float(), factors).to(torch.uint8)
    for index, factor in enumerate(factors.tolist()):
        for band in range(5):
            expected = V.adjust_contrast(image[index, band : band + 1], factor)
            assert (found[index, band].int() - expected[0].int()).abs().max() <= 1
