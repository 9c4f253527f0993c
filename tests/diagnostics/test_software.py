"""Versions outside the bounds, drivers that do not work, and a hub out of reach are named."""

from __future__ import annotations

import http.server
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from cid_ray.config import InputError
from cid_ray.diagnostics import software
from cid_ray.diagnostics.runner import Limited
from cid_ray.diagnostics.software import check_gpu, check_hub, check_versions
from tests.helpers.ports import free_port

METADATA = """Metadata-Version: 2.1
Name: otherwise
Version: 7
Requires-Python: {python}
Requires-Dist: {requirement}
Requires-Dist: absent; extra == "dev"
"""


def test_installed_versions_are_shown() -> None:
    assert ", torch 2." in check_versions()


@pytest.mark.parametrize(
    ("python", "requirement", "problem"),
    [
        (">=3.11", "numpy>=1", None),
        (">=3.99", "numpy>=1", r"Python 3\.\d+\.\d+ is not >=3.99"),
        (">=3.11", "numpy<1.2,>=1", r"numpy [\d.]+ is not <1.2,>=1"),
        (">=3.11", "no-such-package>1", "no-such-package is not installed"),
    ],
)
def test_version_outside_the_bounds_is_named(
    python: str,
    requirement: str,
    problem: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    installed = tmp_path / "otherwise-7.dist-info"
    installed.mkdir()
    text = METADATA.format(python=python, requirement=requirement)
    (installed / "METADATA").write_text(text)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(software, "DISTRIBUTION", "otherwise")
    if problem is None:
        assert check_versions().startswith("cid_ray 7, Python 3.")
        return
    with pytest.raises(InputError, match=problem):
        check_versions()


def test_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(software, "DISTRIBUTION", "no-such-package")
    with pytest.raises(InputError, match=r"`pip install -e \.`"):
        check_versions()


# ---- GPU ----


def put_nvidia_smi(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """A program of this name that prints what the real one prints."""
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_machine_without_gpu_is_ok(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert check_gpu() == "no GPU: training runs on the CPU"


def test_gpu_that_torch_cannot_use_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    put_nvidia_smi(tmp_path, monkeypatch, 'echo "NVIDIA X100, 80 GiB, 400.10"')
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    reason = "a build without CUDA" if torch.version.cuda is None else "update the driver"
    with pytest.raises(InputError, match=rf"NVIDIA X100, 80 GiB, driver 400.10, but .*{reason}"):
        check_gpu()


def test_driver_that_does_not_work_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_nvidia_smi(tmp_path, monkeypatch, 'echo "no communication with the driver"; exit 9')
    with pytest.raises(InputError, match=r"nvidia-smi fails \(no communication"):
        check_gpu()


@pytest.mark.gpu
def test_gpu_computes() -> None:
    assert "torch computes on it" in check_gpu()


# ---- hub ----


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a web server that answers 404 or 501."""
    handler = http.server.BaseHTTPRequestHandler
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_hub_that_answers_is_ok(hub: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", hub)
    assert check_hub() == f"{hub} answers: pretrained weights can be downloaded"


def test_hub_out_of_reach_is_a_warning(hub: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(Limited, match=r"refused\): model.weights=pretrained works"):
        check_hub()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert check_hub().startswith("HF_HUB_OFFLINE is set")
