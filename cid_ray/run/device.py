"""Where a run computes: CPU or CUDA, threads, autocast. Chosen automatically, and printed."""

from __future__ import annotations

import ctypes
import os
import platform
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from cid_ray.config import InputError, Train


@dataclass(frozen=True)
class Device:
    torch: torch.device
    bf16: bool

    @classmethod
    def choose(cls, train: Train, threads: int | None = None) -> Device:
        """CUDA where there is one, else the CPU; bf16 autocast on CUDA only unless asked for. Sets torch's threads."""
        has_cuda = torch.cuda.is_available()
        if train.device == "cuda" and not has_cuda:
            raise InputError("train.device is 'cuda', but torch sees no GPU here; use 'auto' or 'cpu'")
        kind = "cuda" if has_cuda and train.device != "cpu" else "cpu"
        torch.set_num_threads(threads or available_cpus())
        if kind == "cuda":
            torch.backends.cudnn.benchmark = True
            torch.backends.cuda.matmul.allow_tf32 = True
        else:
            keep_memory()
        return cls(torch.device(kind), train.amp == "bf16" or (train.amp == "auto" and kind == "cuda"))

    def autocast(self) -> AbstractContextManager[object]:
        return torch.autocast(self.torch.type, torch.bfloat16) if self.bf16 else nullcontext()

    def __str__(self) -> str:
        name = torch.cuda.get_device_name() if self.torch.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
        return f"{name}, {'bf16 autocast' if self.bf16 else 'float32'}, channels_last"


def available_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def keep_memory() -> None:
    """Let glibc keep the memory of large tensors instead of giving it back after each: their pages are then touched
    for the first time once, not at every step (benchmarks/results/step)."""
    if platform.libc_ver()[0] != "glibc":
        return
    trim_threshold, mmap_max = -1, -4  # of malloc.h
    libc = ctypes.CDLL(None)
    libc.mallopt(mmap_max, 0)
    libc.mallopt(trim_threshold, 2**31 - 1)
