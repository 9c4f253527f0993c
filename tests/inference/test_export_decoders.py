"""Law: an exported network of any decoder says what torch says, at other sizes and batches.

Measured with torch 2.14: as ONNX all decoders are dynamic; as torch.export pan is not, nor is dpt
on DINOv3, whose positions are rotary. EVA-02 can be exported by torch.export alone.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load
from torch import nn

from cid_ray.core.model import ARCHITECTURES
from cid_ray.core.vit import create_dpt
from cid_ray.inference.export_formats import load_onnx
from cid_ray.inference.export_graph import AnySizeBicubic, AnySizePool
from cid_ray.inference.export_model import export_model
from tests.inference.export_helpers import untrained

SIZE = (128, 160)  # pan needs 128
ALL_DYNAMIC = ["batch", "height", "width"]
ENCODERS = ("resnet18", "mobilenetv3_small_050", "test_convnext")
VITS = ["vit_small_patch14_reg4_dinov2", "vit_tiny_patch16_dinov3_qkvb", "deit3_small_patch16_224"]
VITS = [name for name in VITS if timm.is_model(name)]  # DINOv3 came with timm 1.0.20
# Whose height and width are fixed in a torch.export program.
FIXED_PROGRAMS = {"pan"}
CNN_DECODERS = [name for name in ARCHITECTURES if name != "dpt"]


@pytest.mark.parametrize("decoder", CNN_DECODERS)
def test_onnx_file_of_decoder_says_what_torch_says(decoder: str) -> None:
    check_onnx(decoder, "test_efficientnet")


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("decoder", CNN_DECODERS)
def test_onnx_file_of_any_encoder_says_what_torch_says(decoder: str, encoder: str) -> None:
    check_onnx(decoder, encoder)


def test_onnx_file_of_dpt_on_a_vit_says_what_torch_says() -> None:
    check_onnx("dpt", "test_vit")


@pytest.mark.slow
@pytest.mark.parametrize("encoder", VITS)
def test_onnx_file_of_dpt_on_any_vit_says_what_torch_says(encoder: str) -> None:
    check_onnx("dpt", encoder)


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ["test_vit", *VITS])
def test_torch_export_program_of_dpt_says_what_torch_says(encoder: str) -> None:
    exported = export_model(untrained("dpt", encoder), "torch_export", "ids", SIZE)
    assert exported.card["dynamic"] == (["batch"] if "dinov3" in encoder else ALL_DYNAMIC)
    assert exported.parity.confidence is not None and exported.parity.confidence <= 1e-4


@pytest.mark.parametrize("encoder", ["test_vit", "eva02_tiny_patch14_224"])
def test_weights_file_of_dpt_is_read_as_the_page_says(encoder: str) -> None:
    predictor = untrained("dpt", encoder)
    exported = export_model(predictor, "safetensors", size=SIZE)
    with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
        Path(file.name).write_bytes(exported.content)
        with safe_open(file.name, "pt") as opened:
            arguments = json.loads(opened.metadata()["smp"])
    net = create_dpt(**arguments).eval()
    net.load_state_dict(load(exported.content))
    stride = predictor.net.stride
    images = torch.randint(0, 256, (1, 3, 3 * stride, 4 * stride))
    with torch.no_grad():
        expected = predictor.net(images)[0]
        found = net((images - predictor.net.mean) / predictor.net.std)
    torch.testing.assert_close(found, expected)


def check_onnx(decoder: str, encoder: str) -> None:
    predictor = untrained(decoder, encoder)
    exported = export_model(predictor, "onnx", "logits", SIZE)
    assert exported.card["dynamic"] == ALL_DYNAMIC and exported.notes == []
    run = load_onnx(exported.content, predictor)
    # Sizes and a batch that the export has not compared: smaller, larger, upright.
    for shape in ((3, 3, 101, 130), (1, 3, 224, 99)):
        images = torch.randint(0, 256, shape, dtype=torch.uint8)
        with torch.no_grad():
            expected = predictor.net(images)[0].numpy()
        (found,) = run(images.numpy())
        scale = max(1.0, np.abs(expected).max())
        assert np.abs(found - expected).max() <= 1e-4 * scale
    assert exported.parity.logits is not None and exported.parity.logits <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("decoder", CNN_DECODERS)
def test_torch_export_program_of_decoder_says_what_torch_says(decoder: str) -> None:
    exported = export_model(untrained(decoder), "torch_export", "ids", SIZE)
    is_fixed = decoder in FIXED_PROGRAMS
    assert exported.card["dynamic"] == (["batch"] if is_fixed else ALL_DYNAMIC)
    assert [note[:31] for note in exported.notes] == (
        ["fixed: height 128, width 160 (t"] if is_fixed else []
    )
    assert exported.parity.confidence is not None and exported.parity.confidence <= 1e-4


@pytest.mark.slow
def test_encoder_of_one_image_size_keeps_it() -> None:
    exported = export_model(
        untrained("fpn", "swin_tiny_patch4_window7_224"), "onnx", "ids", (224, 224)
    )
    assert exported.card["dynamic"] == ["batch"]
    (note,) = exported.notes
    assert note.startswith("fixed: height 224, width 224 (") and "(224)" in note


def test_network_of_five_bands_is_exported() -> None:
    exported = export_model(untrained("fpn", bands=True), "onnx", "ids", (64, 64))
    assert exported.card["input"]["channels"] == 5
    assert exported.card["input"]["mean"] == [90, 80, 70, 60, 50]
    assert exported.card["input"]["order"] == "as the bands of the training data"


@pytest.mark.parametrize("grid", [(1, 1), (10, 10), (37, 37), (5, 8)])
@pytest.mark.parametrize("size", [(1, 1), (4, 5), (10, 10), (37, 20), (50, 64)])
def test_resizing_by_matrices_is_antialiased_bicubic(
    grid: tuple[int, int], size: tuple[int, int]
) -> None:
    x = torch.rand(1, 3, *grid, dtype=torch.float64)
    expected = F.interpolate(x, size=size, mode="bicubic", antialias=True)
    with AnySizeBicubic():
        found = F.interpolate(x, size=size, mode="bicubic", antialias=True)
    assert torch.allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("bins", [(2, 2), (3, 3), (6, 6), (2, 5)])
@pytest.mark.parametrize("size", [(1, 1), (4, 5), (6, 6), (7, 13), (20, 3)])
def test_pooling_by_matrices_is_adaptive_pooling(
    bins: tuple[int, int], size: tuple[int, int]
) -> None:
    x = torch.rand(2, 3, *size, dtype=torch.float64)
    found = AnySizePool(bins)(x)
    assert torch.allclose(found, F.adaptive_avg_pool2d(x, bins), atol=1e-12)


def test_export_leaves_the_network_as_it_is() -> None:
    predictor = untrained("pspnet")
    before = {name: value.clone() for name, value in predictor.net.state_dict().items()}
    export_model(predictor, "onnx", "ids", (64, 64))
    assert any(isinstance(module, nn.AdaptiveAvgPool2d) for module in predictor.net.modules())
    assert all(torch.equal(before[name], v) for name, v in predictor.net.state_dict().items())
