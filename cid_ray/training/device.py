"""Where a run computes: CPU or CUDA, threads, autocast. Chosen automatically, and printed."""

from __future__ import annotations

import ctypes
import platform
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cid_ray.config import InputError, TrainConfig
from cid_ray.resources.container import available_cpus

# mallopt's parameters, from glibc's malloc.h
M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4


@dataclass(frozen=True)
class Device:
    torch: torch.device
    bf16: bool  # autocast to bfloat16

    @classmethod
    def choose(cls, train: TrainConfig, num_threads: int | None = None) -> Device:
        """CUDA where torch sees a GPU, else the CPU; sets this process's number of threads.

        Args:
            train: `train.device` and `train.amp`.
            num_threads: of torch; None: one per CPU that this process may use.

        Raises:
            InputError: `train.device` is "cuda" and there is no GPU.
        """
        has_cuda = torch.cuda.is_available()
        if train.device == "cuda" and not has_cuda:
            raise InputError(
                "train.device is 'cuda', but torch sees no GPU here; use 'auto' or 'cpu'"
            )
        kind = "cuda" if has_cuda and train.device != "cpu" else "cpu"
        torch.set_num_threads(num_threads or available_cpus())
        if kind == "cuda":
            torch.backends.cudnn.benchmark = True
            torch.backends.cuda.matmul.allow_tf32 = True
        else:
            keep_freed_memory()
        # Many CPUs have no bfloat16 units, so "auto" uses it on CUDA alone.
        bf16 = train.amp == "bf16" or (train.amp == "auto" and kind == "cuda")
        return cls(torch.device(kind), bf16)

    def autocast(self) -> AbstractContextManager[object]:
        return torch.autocast(self.torch.type, torch.bfloat16) if self.bf16 else nullcontext()

    def tensor(self, value: np.ndarray) -> Tensor:
        """A batch's array on this device."""
        # Arrays of Ray Data are read-only views of its object store, which torch does not take.
        tensor = torch.from_numpy(np.require(value, requirements=["C", "W"]))
        if self.torch.type == "cpu":
            return tensor
        return tensor.pin_memory().to(self.torch, non_blocking=True)

    def __str__(self) -> str:
        name = f"CPU, {torch.get_num_threads()} threads"
        if self.torch.type == "cuda":
            name = torch.cuda.get_device_name()
        precision = "bf16 autocast" if self.bf16 else "float32"
        return f"{name}, {precision}, channels_last"


def keep_freed_memory() -> None:
    """Let glibc keep the memory of large tensors when they are freed.

    By default it returns such memory to the kernel after each tensor, and the kernel zeroes the
    pages anew at every training step. Keeping them makes a step up to 1.3 times as fast
    (benchmarks/results/step).
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_MAX, 0)
    libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
