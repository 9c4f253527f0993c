"""Versions against the tested bounds, the GPU and its driver, and the hub of pretrained weights."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import urllib.error
import urllib.request
from importlib.metadata import PackageNotFoundError, metadata, requires, version

from cid_ray.config import InputError, error_summary
from cid_ray.diagnostics.runner import Limited

DISTRIBUTION = "cid_ray"
SHOWN = ("torch", "ray", "optuna", "numpy")
SMI_QUERY = ("--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
SMI_TIMEOUT_S = 20
HUB_TIMEOUT_S = 5


# ---- versions ----


def check_versions() -> str:
    """Python and every dependency, as the installed package demands them."""
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    try:
        wanted = [Requirement(text) for text in requires(DISTRIBUTION) or ()]
    except PackageNotFoundError:
        raise InputError(
            "cid_ray runs from a folder in which it is not installed, so its bounds are not known; "
            "`pip install -e .` there, or install its wheel"
        ) from None
    python = SpecifierSet(metadata(DISTRIBUTION)["Requires-Python"] or "")
    problems = []
    if platform.python_version() not in python:
        problems.append(f"Python {platform.python_version()} is not {python}")
    for requirement in wanted:
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            found = _installed(requirement.name)
            if found is None:
                problems.append(f"{requirement.name} is not installed")
            elif not requirement.specifier.contains(found, prereleases=True):
                problems.append(f"{requirement.name} {found} is not {requirement.specifier}")
    if problems:
        raise InputError(f"{'; '.join(problems)}; `pip install cid_ray` again")
    shown = ", ".join(f"{name} {_installed(name)}" for name in SHOWN)
    return f"cid_ray {version(DISTRIBUTION)}, Python {platform.python_version()}, {shown}"


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


# ---- GPU ----


def check_gpu() -> str:
    """The GPUs of the driver, and whether torch computes on them. No GPU is no failure."""
    listed = nvidia_gpus()
    import torch

    if torch.cuda.is_available():
        names = []
        for number in range(torch.cuda.device_count()):
            # A GPU that this build has no code for fails here.
            torch.ones(8, device=f"cuda:{number}").sum().item()
            names.append(torch.cuda.get_device_name(number))
        build = torch.version.cuda or torch.version.hip
        return f"{', '.join(names)}; torch computes on it (built for {build})"
    if not listed:
        return "no GPU: training runs on the CPU"
    found = "; ".join(listed)
    if torch.version.cuda is None:
        raise InputError(f"{found}, but torch {torch.__version__} is a build without CUDA")
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        raise Limited(f"{found}, but CUDA_VISIBLE_DEVICES={visible!r} shows torch none of them")
    try:
        torch.cuda.init()
        reason = "torch sees none"
    except Exception as error:
        reason = error_summary(error)
    raise InputError(
        f"{found}, but torch for CUDA {torch.version.cuda} cannot use it: {reason}; update the "
        "driver, or install a torch for the CUDA of this driver"
    )


def nvidia_gpus() -> list[str]:
    """ "NAME, MEMORY, driver VERSION" of each GPU; [] without the driver's program.

    Raises:
        InputError: the program is installed and does not work.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    done = subprocess.run(
        [program, *SMI_QUERY], capture_output=True, text=True, timeout=SMI_TIMEOUT_S, check=False
    )
    if done.returncode != 0:
        reason = (done.stdout + done.stderr).strip() or f"exit code {done.returncode}"
        raise InputError(f"nvidia-smi fails ({reason[:200]}); install the driver of the GPU again")
    return [" driver ".join(line.rsplit(" ", 1)) for line in done.stdout.strip().splitlines()]


# ---- hub ----


def check_hub() -> str:
    """Whether pretrained weights can be downloaded. Offline is no failure."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set: pretrained weights come from the cache alone"
    try:
        request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
        urllib.request.urlopen(request, timeout=HUB_TIMEOUT_S).close()
    except urllib.error.HTTPError:
        pass  # it answers
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)  # of a URLError
        raise Limited(
            f"{constants.ENDPOINT} cannot be reached ({reason}): "
            "model.weights=pretrained works with weights in the cache alone. Name a mirror in "
            "HF_ENDPOINT or a file in model.weights; HF_HUB_OFFLINE=1 avoids the wait"
        ) from None
    return f"{constants.ENDPOINT} answers: pretrained weights can be downloaded"
