"""`export_model`: a trained network as a file for other programs, compared with the network."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from cid_ray.config import InputError, error_summary
from cid_ray.inference.export_card import file_fields, make_card
from cid_ray.inference.export_formats import AXES, FORMATS, ExportFormat, format_fields
from cid_ray.inference.export_graph import Output
from cid_ray.inference.export_kinds import KINDS, check_installed
from cid_ray.inference.export_parity import (
    Parity,
    compare,
    other_size,
    parity_images,
    random_images,
    real_images,
)
from cid_ray.inference.export_weights import with_metadata
from cid_ray.inference.predictor import Predictor
from cid_ray.storage import paths
from cid_ray.storage.paths import PathOrUri

DEFAULT_SIZE = (512, 512)
MIN_SIDE, MAX_SIDE = 32, 8192
MAX_REASON_CHARS = 200
BATCHES = [1, 2]
# What is tried, in this order: what the network's code allows is found by running the result.
DYNAMIC_AXES = (tuple(AXES), ("batch",), ())


class ExportError(RuntimeError):
    """A network cannot be written in a format, or the file says something else than the network."""


@dataclass(frozen=True)
class Exported:
    """A file, not yet written.

    Attributes:
        content: its bytes.
        card: plain values about it (export_card.py).
        parity: how far it is from the network.
        notes: lines for a person: what is fixed and why.
    """

    content: bytes
    card: dict[str, Any]
    parity: Parity
    notes: list[str]

    def write(self, out: PathOrUri) -> PathOrUri:
        """Write the file and its card, each atomically; returns the card's name."""
        with paths.atomic_write(out) as file:
            file.write(self.content)
        card = card_name(out)
        fields = {**file_fields(out, self.content), **self.card}
        paths.write_text(card, json.dumps(fields, indent=2, ensure_ascii=False) + "\n")
        return card


def card_name(out: PathOrUri) -> str:
    return f"{out}.json"


def default_size(predictor: Predictor) -> tuple[int, int]:
    """The size of the run's images, else 512 x 512."""
    size = predictor.config.data.image_size
    return (size[0], size[1]) if size else DEFAULT_SIZE


def export_model(
    predictor: Predictor,
    kind: str,
    output: Output = "ids",
    size: tuple[int, int] | None = None,
) -> Exported:
    """Export a network and compare the file with it.

    Batch, height and width are dynamic where that gives the network's answers at other sizes. Else
    height and width are fixed, and if need be the batch.

    Args:
        predictor: what `load_model` returns.
        kind: "onnx", "torch_export" or "safetensors".
        output: "ids": classes and confidence, or "logits".
        size: height and width of the example; None: the run's image size, else 512 x 512.

    Raises:
        InputError: onnx is not installed, or the size is out of range.
        ExportError: it cannot be exported, or differs by more than the tolerance.

    Example:
        >>> exported = export_model(cid_ray.load_model("runs/mine"), "onnx")
        >>> exported.write("mine.onnx")
        'mine.onnx.json'
    """
    check_installed(kind)
    size = size or default_size(predictor)
    if not all(MIN_SIDE <= side <= MAX_SIDE for side in size):
        raise InputError(
            f"--size is {size[0]} {size[1]}, each must be {MIN_SIDE} to {MAX_SIDE} pixels"
        )
    is_graph = KINDS[kind].is_graph
    if not is_graph:
        output = "logits"
    check_network(predictor, size)
    real = real_images(predictor, size)
    reasons: list[str] = []
    for dynamic in DYNAMIC_AXES if is_graph else DYNAMIC_AXES[:1]:
        try:
            content, parity = attempt(predictor, FORMATS[kind], output, size, dynamic, real)
        except ExportError as error:
            reasons.append(str(error))
            continue
        fixed = {axis: value for axis, value in zip(AXES, (1, *size), strict=True)}
        fixed = {axis: value for axis, value in fixed.items() if axis not in dynamic}
        notes = [f"fixed: {name_axes(fixed)} ({reasons[0]})"] if fixed else []
        shape = {"size": list(size), "dynamic": list(dynamic), "fixed": fixed}
        fields = {**format_fields(kind), **shape, "parity": asdict(parity)}
        card = make_card(predictor, output, **fields)
        if not is_graph:
            content = with_metadata(predictor, card)
        return Exported(content, card, parity, notes)
    # The last reason is that of the least demand.
    raise ExportError(f"{name_network(predictor)} cannot be exported as {kind}: {reasons[-1]}")


def name_axes(fixed: dict[str, int]) -> str:
    return ", ".join(f"{axis} {value}" for axis, value in fixed.items())


def name_network(predictor: Predictor) -> str:
    return f"{predictor.config.model.decoder} on {predictor.config.model.encoder}"


def check_network(predictor: Predictor, size: tuple[int, int]) -> None:
    """Raise InputError when the network itself does not take images of this size."""
    images = random_images(1, predictor.net.in_channels, size)
    try:
        with torch.no_grad():
            predictor.net(images.to(predictor.device.torch))
    except (RuntimeError, ValueError, AssertionError) as error:
        raise InputError(
            f"{name_network(predictor)} does not take images of {size[0]}x{size[1]} "
            f"({one_line(error)}); choose another --size"
        ) from None


def attempt(
    predictor: Predictor,
    file_format: ExportFormat,
    output: Output,
    size: tuple[int, int],
    dynamic: tuple[str, ...],
    real: Tensor | None,
) -> tuple[bytes, Parity]:
    """Write with some dynamic axes, and compare at sizes and batches that these allow.

    Raises:
        ExportError: it cannot be written or run, or differs by more than the tolerance.
    """
    batches = BATCHES if "batch" in dynamic else BATCHES[:1]
    sizes = [size, other_size(size)] if "height" in dynamic else [size]
    example = random_images(batches[-1], predictor.net.in_channels, size)
    found: Parity | None = None
    name = "the example"
    try:
        # torch prints the whole graph of a failed export.
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            content = file_format.write(predictor, output, example, dynamic)
            run = file_format.load(content, predictor)
            for images, name in parity_images(predictor, sizes, batches, real):
                parity = compare(predictor.net, run, images, name)
                if not parity.is_within_tolerance:
                    break
                found = parity if found is None else found.merge(parity)
    # torch, onnx and onnxruntime raise errors of many types for what they cannot do.
    except Exception as error:
        raise ExportError(f"{name}: {one_line(error)}") from error
    if not parity.is_within_tolerance or found is None:
        raise ExportError(f"it differs from the network: {parity.describe()}")
    return content, found


def one_line(error: Exception) -> str:
    return " ".join(error_summary(error, with_type=True).split())[:MAX_REASON_CHARS]
