"""Law: what `export` writes says what the network says, and its card tells how to use it.

Faults: a wrong option, an existing file, a missing package and a difference are one line each.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors
import safetensors.torch
import segmentation_models_pytorch as smp
import torch

import cid_ray
from cid_ray.config import InputError
from cid_ray.export import main
from cid_ray.inference.export_card import weights_card
from cid_ray.inference.export_formats import load_onnx, write_onnx
from cid_ray.inference.export_model import export_model
from cid_ray.inference.export_parity import TOLERANCE, compare, random_images
from cid_ray.results.records import RecordWriter, of_event, read_records
from tests.inference.export_helpers import untrained

SIZE = ("--size", "64", "96")


@pytest.fixture(scope="module")
def exported(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX file of classes and confidence."""
    out = tmp_path_factory.mktemp("exported") / "tiny.onnx"
    assert main([str(trained), "--format", "onnx", "--out", str(out), *SIZE]) == 0
    return out


def read_card(out: Path) -> dict[str, Any]:
    card: dict[str, Any] = json.loads(Path(f"{out}.json").read_text(encoding="utf-8"))
    return card


def test_onnx_file_answers_as_the_predictor(trained: Path, exported: Path) -> None:
    predictor = cid_ray.load_model(trained)
    session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
    for shape in ((1, 3, 64, 96), (3, 3, 45, 70)):
        images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        classes, confidence = session.run(None, {"image": images})
        assert classes.dtype == np.uint8 and confidence.dtype == np.float32
        for image, ids, score in zip(images, classes, confidence, strict=True):
            expected = predictor(np.moveaxis(image, 0, -1))
            assert np.abs(score - expected.confidence).max() <= TOLERANCE
            assert (ids != expected.classes).mean() <= 0.001


def test_onnx_file_is_valid_and_its_axes_are_named(exported: Path) -> None:
    model = onnx.load(exported)
    onnx.checker.check_model(model, full_check=True)
    card = read_card(exported)
    assert [(each.domain, each.version) for each in model.opset_import] == [("", card["opset"])]
    dims = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert dims["image"] == ["batch", 3, "height", "width"]
    assert dims["classes"][0] == dims["confidence"][0] == "batch"
    assert card["dynamic"] == ["batch", "height", "width"] and card["fixed"] == {}


def test_card_says_what_the_file_is(trained: Path, exported: Path) -> None:
    card = read_card(exported)
    predictor = cid_ray.load_model(trained)
    final = predictor.checkpoint.final
    assert card["sha256"] == hashlib.sha256(exported.read_bytes()).hexdigest()
    assert card["classes"] == predictor.classes and card["colors"] == predictor.colors
    assert card["size"] == [64, 96] and card["input"]["channels"] == 3
    assert list(card["outputs"]) == ["classes", "confidence"]
    assert card["scores"]["test_miou"] == final["test/miou_teacher"]
    assert card["scores"]["val_miou"] == final["val/miou_teacher"]
    assert card["scores"]["ratio_name"] == "1/8 (24)" and card["scores"]["noise_floor"] is None
    assert card["data"]["fingerprint"] == cid_ray.open_table("demo").fingerprint
    assert card["encoder_weights"]["source"] == "trained from random weights"
    assert card["versions"]["onnxruntime"] == onnxruntime.__version__
    assert "2 of demo" in card["parity"]["images"]
    assert str(trained) not in json.dumps(card)


def test_student_and_logits_are_exported_when_asked_for(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "student.onnx"
    options = ("--network", "student", "--output", "logits", "--format", "onnx", *SIZE)
    assert main([str(trained), "--out", str(out), *options]) == 0
    images = random_images(2, 3, (40, 56))
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    (found,) = session.run(["logits"], {"image": images.numpy()})
    expected = cid_ray.load_model(trained, "student").net(images)[0].numpy()
    assert np.abs(found - expected).max() <= 1e-3
    card = read_card(out)
    assert card["network"] == "student" and list(card["outputs"]) == ["logits"]
    (final,) = [cid_ray.load_model(trained).checkpoint.final]
    assert card["scores"]["test_miou"] == final["test/miou"]


def test_torch_export_program_is_loaded_by_torch_alone(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "tiny.pt2"
    assert main([str(trained), "--format", "torch_export", "--out", str(out), *SIZE]) == 0
    program = torch.export.load(out).module()
    images = random_images(3, 3, (50, 40))
    classes, confidence = program(images)
    expected = cid_ray.load_model(trained).net(images)[0].softmax(1).amax(1)
    assert classes.dtype == torch.uint8 and classes.shape == (3, 50, 40)
    assert torch.allclose(confidence, expected, atol=1e-4)


def test_weights_are_loaded_by_smp_and_give_the_same_logits(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "tiny.safetensors"
    assert main([str(trained), "--format", "safetensors", "--out", str(out), *SIZE]) == 0
    with safetensors.safe_open(out, "pt") as file:
        metadata = {name: json.loads(value) for name, value in file.metadata().items()}
    net = smp.create_model(**metadata["smp"]).eval()
    net.load_state_dict(safetensors.torch.load_file(out))
    mean, std = (torch.tensor(metadata[name]).view(-1, 1, 1) for name in ("mean", "std"))
    images = random_images(2, 3, (64, 96))
    with torch.no_grad():
        found = net((images.float() - mean) / std)
        expected = cid_ray.load_model(trained).net(images)[0]
    assert torch.allclose(found, expected, atol=1e-4)
    assert metadata["card"]["classes"] == cid_ray.load_model(trained).classes
    assert read_card(out)["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()


def test_pretrained_weights_are_named_with_their_licence(trained: Path, tmp_path: Path) -> None:
    card = weights_card("resnet18", "pretrained")
    assert card == {"source": "trained from timm's resnet18.a1_in1k", "license": "apache-2.0"}
    assert weights_card("resnet18.a1_in1k", "pretrained") == card
    assert weights_card("resnet18", "some/where/w.safetensors") == {
        "source": "trained from the file w.safetensors",
        "license": None,
    }
    content = torch.load(trained / "checkpoints" / "train" / "last.pt", weights_only=True)
    content["config"] = content["config"].replace("\n  weights: none", "\n  weights: pretrained")
    torch.save(content, tmp_path / "last.pt")
    predictor = cid_ray.load_model(tmp_path / "last.pt")
    assert predictor.weights == "pretrained" and predictor.config.model.weights == "none"


# ---- faults ----


def test_file_of_another_network_is_not_within_tolerance() -> None:
    one, other = untrained("linknet"), untrained("linknet", "mobilenetv3_small_050")
    images = random_images(2, 3, (64, 64))
    run = load_onnx(write_onnx(other, "logits", images, ["batch"]), other)
    assert not compare(one.net, run, images, "random").is_within_tolerance
    assert compare(other.net, run, images, "random").is_within_tolerance


@pytest.mark.parametrize("kind", ["onnx", "safetensors"])
def test_network_of_nan_fails_and_leaves_no_file(
    trained: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    content = torch.load(trained / "checkpoints" / "train" / "last.pt", weights_only=True)
    name = next(name for name in content["teacher"] if name.endswith("segmentation_head.0.weight"))
    content["teacher"][name].fill_(float("nan"))
    torch.save(content, tmp_path / "nan.pt")
    out = tmp_path / "out" / "nan.file"
    assert main([str(tmp_path / "nan.pt"), "--format", kind, "--out", str(out), *SIZE]) == 1
    error = capsys.readouterr().err
    assert "differs from the network: largest difference of" in error
    assert error.count("\n") == 1 and error.startswith("failed: fpn on test_efficientnet cannot")
    assert not out.parent.exists()


def test_wrong_options_are_one_line(trained: Path, exported: Path, tmp_path: Path) -> None:
    fresh = ("--out", str(tmp_path / "new.onnx"))
    for options, message in {
        ("--format", "onnx", "--out", str(exported)): "tiny.onnx exists; choose another or add",
        ("--format", "onnx", "--size", "16", "64", *fresh): "--size is 16 64, each must be 32 to",
        ("--format", "tflite", *fresh): "invalid choice: 'tflite'",
        ("--format", "safetensors", "--output", "ids", *fresh): "holds weights and has no outputs",
        ("--format", "onnx", "--out", f"{exported}/x.onnx", *SIZE): "cannot be written",
    }.items():
        with pytest.raises(InputError, match=message):
            main([str(trained), *options])
    with pytest.raises(InputError, match=r"neither a checkpoint .* nor a run folder"):
        main([str(tmp_path / "nothing"), "--format", "onnx", *fresh])
    assert not list(tmp_path.iterdir())


def test_existing_file_is_replaced_when_asked_for(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "tiny.safetensors"
    Path(f"{out}.json").write_text("old", encoding="utf-8")
    argv = [str(trained), "--format", "safetensors", "--out", str(out), *SIZE]
    with pytest.raises(InputError, match=r"tiny.safetensors.json exists"):
        main(argv)
    assert main([*argv, "--overwrite"]) == 0
    assert read_card(out)["file"] == "tiny.safetensors"


def test_default_name_is_that_of_the_run(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([str(trained), "--format", "safetensors", *SIZE]) == 0
    last = str(trained / "checkpoints" / "train" / "last.pt")
    assert main([last, "--format", "safetensors", *SIZE]) == 0
    assert sorted(p.name for p in tmp_path.glob("*.safetensors")) == [
        "last.safetensors",
        "train.safetensors",
    ]
    assert read_card(tmp_path / "last.safetensors")["scores"] is None


def test_missing_package_is_named_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)  # as if it were not installed
    with pytest.raises(InputError, match=r"needs onnx, .* pip install 'cid_ray\[export\]'"):
        main(["nothing", "--format", "onnx"])


def test_size_that_the_network_cannot_take_is_one_line() -> None:
    with pytest.raises(InputError, match=r"pan on test_efficientnet does not take .* 64x64"):
        export_model(untrained("pan"), "onnx", "ids", (64, 64))


# ---- noise ----


def test_card_has_the_noise_floor_of_the_repeats(trained: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    (final,) = of_event(read_records(run), "final")
    writer = RecordWriter(run)
    scores = {"train": [10.0, 12.0, 11.0], "supervised": [9.0, 12.5, 10.5]}
    for original, values in scores.items():
        for index, value in enumerate(values):
            name = f"{original}-repeat{index}"
            repeat = {"run": name, "repeats_of": original, "repeat_index": index, "seed": index}
            writer.append({**final, **repeat, "test/miou_teacher": value})
    predictor = cid_ray.load_model(run)
    # t(0.975, 2) * sqrt(2 s2 / 3), with s2 of the differences 1, -0.5, 0.5 halved
    s2 = float(np.var([1.0, -0.5, 0.5], ddof=1)) / 2
    floor = 4.302652729911275 * np.sqrt(2 * s2 / 3)
    assert predictor.checkpoint.noise_floor == pytest.approx(floor)
    exported = export_model(predictor, "safetensors", size=(64, 64))
    assert exported.card["scores"]["noise_floor"] == pytest.approx(floor)
    student = export_model(cid_ray.load_model(run, "student"), "safetensors", size=(64, 64))
    assert student.card["scores"]["noise_floor"] is None
