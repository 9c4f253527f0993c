"""The network as it is exported: raw images in, class ids or logits out, at any size.

B images   C channels   K classes   H,W pixels of an image   h,w positions of a feature map
"""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from cid_ray.core.model import Segmenter

Output = Literal["ids", "logits"]
OUTPUTS: dict[str, dict[str, str]] = {
    "ids": {"classes": "uint8[B, H, W]", "confidence": "float32[B, H, W]"},
    "logits": {"logits": "float32[B, K, H, W]"},
}
INPUT_NAME = "image"


class ExportNet(nn.Module):
    """A copy of a `Segmenter` that exporters can follow.

    Normalisation, padding to the network's stride and cropping are inside, as in `Segmenter`.

    Args:
        net: stays as it is.
        output: "ids" or "logits".

    Example:
        >>> classes, confidence = ExportNet(predictor.net, "ids")(torch.zeros(1, 3, 64, 96).byte())
        >>> classes.dtype, confidence.shape
        (torch.uint8, torch.Size([1, 64, 96]))
    """

    def __init__(self, net: Segmenter, output: Output):
        super().__init__()
        self.net = copy.deepcopy(net).cpu().eval().requires_grad_(False)
        self.output = output
        undilate_pointwise(self.net)
        replace_pools(self.net)

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Images u8[B,C,H,W] -> logits f32[B,K,H,W], or classes u8[B,H,W] and confidence f32."""
        with AnySizeBicubic():
            canvas = self.net.forward_canvas(image)[0]
        logits = crop(canvas, image.shape[-2], image.shape[-1])
        if self.output == "logits":
            return logits
        confidence = logits.softmax(1).amax(1)
        return logits.argmax(1).to(torch.uint8), confidence


def crop(x: Tensor, height: int, width: int) -> Tensor:
    """The first rows and columns of [B,K,H,W], copied.

    Of a slice torch.export asks whether it is contiguous, which sets the size's remainder by 32.
    """
    rows = torch.arange(height, device=x.device)
    columns = torch.arange(width, device=x.device)
    return x.index_select(-2, rows).index_select(-1, columns)


class AnySizePool(nn.Module):
    """`nn.AdaptiveAvgPool2d` as two matrix products, f[B,C,h,w] -> f[B,C,bins,bins].

    ONNX has no adaptive pooling. Torch's exporters write it for the example's size only: one
    refuses other sizes, the other answers them wrongly (docs/use.md has the measurement). A bin is
    the mean of rows floor(i*h/n) to ceil((i+1)*h/n), so it is a product with a matrix that depends
    on h alone, which the graph makes at each size.
    """

    def __init__(self, bins: tuple[int, int]):
        super().__init__()
        self.bins = bins

    def forward(self, x: Tensor) -> Tensor:
        rows = pooling_matrix(self.bins[0], x.shape[-2], x)
        columns = pooling_matrix(self.bins[1], x.shape[-1], x)
        return rows @ x @ columns.t()


def pooling_matrix(bins: int, length: int, like: Tensor) -> Tensor:
    """f[bins, length]: row i has the mean's weights of bin i.

    Example:
        >>> pooling_matrix(2, 3, torch.zeros(1)).tolist()
        [[0.5, 0.5, 0.0], [0.0, 0.5, 0.5]]
    """
    position = torch.arange(length, device=like.device)[None]
    index = torch.arange(bins, device=like.device)[:, None]
    start = (index * length).div(bins, rounding_mode="floor")
    stop = ((index + 1) * length + bins - 1).div(bins, rounding_mode="floor")
    inside = (position >= start) & (position < stop)
    return inside.to(like.dtype) / (stop - start).to(like.dtype)


class AnySizeBicubic(TorchFunctionMode):
    """Within it, antialiased bicubic resizing is two matrix products, as pooling is above.

    A ViT resizes its position embedding so, for which ONNX has no operator before opset 18.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.interpolate and kwargs.get("antialias") and kwargs.get("mode") == "bicubic":
            height, width = kwargs["size"]
            (x,) = args
            rows, columns = (bicubic_matrix(*sides, x) for sides in ((height, -2), (width, -1)))
            return rows @ x @ columns.t()
        return func(*args, **kwargs)


def bicubic_matrix(size: int, dim: int, like: Tensor) -> Tensor:
    """f[size, n]: row i has the weights of the n values along `dim` of `like` in resized value i.

    Source: torch's `interpolate(mode="bicubic", antialias=True)`, a cubic kernel with a = -0.5.

    Example:
        >>> bicubic_matrix(2, -1, torch.zeros(2)).tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    length = like.shape[dim]
    index = torch.arange(size, device=like.device, dtype=like.dtype)[:, None]
    position = torch.arange(length, device=like.device, dtype=like.dtype)[None]
    scale = length / torch.ones_like(index).sum()  # a tensor, so that the graph divides
    centre = (index + 0.5) * scale
    distance = ((position + 0.5 - centre) / scale.clamp(min=1)).abs()
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    weights = torch.where(distance < 1, near, torch.where(distance < 2, far, 0 * far))
    return weights / weights.sum(1, keepdim=True)


def replace_pools(net: nn.Module) -> None:
    """Put an `AnySizePool` for each adaptive pooling to more than one bin, in place."""
    for module in list(net.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.AdaptiveAvgPool2d):
                size: Any = child.output_size
                height, width = (size, size) if isinstance(size, int) else size
                if height is not None and width is not None and (height, width) != (1, 1):
                    setattr(module, name, AnySizePool((height, width)))


def undilate_pointwise(net: nn.Module) -> None:
    """Undo `dilate_pointwise`, which is for torch on a CPU, in place; results stay the same."""
    for conv in net.modules():
        if isinstance(conv, nn.Conv2d) and conv.kernel_size == (1, 1):
            conv.dilation = (1, 1)
