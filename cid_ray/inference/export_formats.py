"""The file formats: what writes a network as bytes, and what runs these bytes again.

ONNX is written by torch's TorchScript exporter. Measured with torch 2.14 on decoders of smp
0.6: it takes half a second where `torch.onnx.export(dynamo=True)` takes 7 to 21, needs no
onnxscript, and all 11 decoders are right at every size. The other one answers pspnet and upernet at
another size than the example's without an error, but wrongly.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cid_ray.inference.export_graph import INPUT_NAME, OUTPUTS, ExportNet, Output
from cid_ray.inference.export_weights import load_weights, save_weights
from cid_ray.inference.predictor import Predictor

OPSET = 17  # of onnxruntime 1.12 (2022) and newer
AXES = {"batch": 0, "height": 2, "width": 3}
OUTPUT_AXES = {
    "classes": {"batch": 0, "height": 1, "width": 2},
    "confidence": {"batch": 0, "height": 1, "width": 2},
    "logits": {"batch": 0, "height": 2, "width": 3},
}
Runner = Callable[[np.ndarray], list[np.ndarray]]


@dataclass(frozen=True)
class ExportFormat:
    """How a file format is written and run.

    Attributes:
        write: predictor, output, example image u8[B,C,H,W] and names of dynamic axes -> bytes.
        load: these bytes and the predictor -> a function from images to the outputs.
    """

    write: Callable[[Predictor, Output, Tensor, Collection[str]], bytes]
    load: Callable[[bytes, Predictor], Runner]


def write_onnx(
    predictor: Predictor, output: Output, example: Tensor, dynamic: Collection[str]
) -> bytes:
    names = list(OUTPUTS[output])
    axes = {name: {OUTPUT_AXES[name][axis]: axis for axis in dynamic} for name in names}
    axes[INPUT_NAME] = {AXES[axis]: axis for axis in dynamic}
    buffer: Any = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        # That a shape becomes a constant is found by running the file at other sizes.
        warnings.simplefilter("ignore")
        # Traced first: smp pools in another way when it sees torch.onnx.export.
        traced = torch.jit.trace(ExportNet(predictor.net, output), (example,), check_trace=False)
        torch.onnx.export(
            traced,
            (example,),
            buffer,
            dynamo=False,
            opset_version=OPSET,
            input_names=[INPUT_NAME],
            output_names=names,
            dynamic_axes=axes,
        )
    content: bytes = buffer.getvalue()
    return content


def load_onnx(content: bytes, predictor: Predictor) -> Runner:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # what fails is raised
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {INPUT_NAME: images})


def write_program(
    predictor: Predictor, output: Output, example: Tensor, dynamic: Collection[str]
) -> bytes:
    axes = {AXES[name]: torch.export.Dim.DYNAMIC for name in dynamic}
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # channels_last weights are stored all the same
        net = ExportNet(predictor.net, output)
        program = torch.export.export(net, (example,), dynamic_shapes=(axes,), strict=False)
        torch.export.save(program, buffer)
    return buffer.getvalue()


def load_program(content: bytes, predictor: Predictor) -> Runner:
    module = torch.export.load(io.BytesIO(content)).module()

    def run(images: np.ndarray) -> list[np.ndarray]:
        with torch.no_grad():
            found = module(torch.from_numpy(images))
        return [part.numpy() for part in (found if isinstance(found, tuple) else (found,))]

    return run


FORMATS = {
    "onnx": ExportFormat(write_onnx, load_onnx),
    "torch_export": ExportFormat(write_program, load_program),
    "safetensors": ExportFormat(save_weights, load_weights),
}


def format_fields(kind: str) -> dict[str, Any]:
    """What a card says of the format."""
    return {"format": kind, "opset": OPSET} if kind == "onnx" else {"format": kind}
