"""`Predictor`: a trained network that takes images as a user has them.

An image is treated as in the evaluation of a training run: resized to `data.image_size`, predicted
whole or by the sliding window of `train.sliding_window`. The scores, not the classes, are resized
to the image's own size.

    C channels of an image   K classes   H,W pixels of an image
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cid_ray.config import Config, InputError
from cid_ray.core import iou
from cid_ray.core.model import Segmenter
from cid_ray.data.band_image import BandImage, Picture
from cid_ray.data.ingest.input_image import read_input
from cid_ray.data.input_spec import ModelData
from cid_ray.inference.locate import CheckpointSource
from cid_ray.inference.tta import NO_TTA, Tta
from cid_ray.training.device import Device

ImageLike = Image.Image | BandImage | np.ndarray | Tensor | str | Path


@dataclass(frozen=True)
class Prediction:
    """What a network says of an image.

    Attributes:
        classes: u8[H, W], the most probable class of each pixel.
        probabilities: f32[K, H, W].

    Example:
        >>> prediction = predictor("photo.jpg")
        >>> prediction.classes[prediction.confidence > 0.9]
        array([3, 3, 7, ..., 0, 0, 0], dtype=uint8)
    """

    classes: np.ndarray
    probabilities: np.ndarray

    @property
    def confidence(self) -> np.ndarray:
        """f32[H, W]: the probability of the most probable class."""
        highest: np.ndarray = self.probabilities.max(0)
        return highest


class Predictor:
    """A trained network. `cid_ray.load_model` makes one.

    Attributes:
        classes: the K class names.
        colors: [r, g, b] of each class.
        config: the configuration of its training run.
        data: what it knows of the data set.
        checkpoint: its file, and the record of the run that wrote it.
        network: "teacher" or "student".
        step: optimizer steps that it was trained for.
        weights: `model.weights` of its training run, from which the encoder started.

    Example:
        >>> predictor = cid_ray.load_model("runs/demo:1/4")
        >>> predictor.classes[predictor("photo.jpg").classes[10, 20]]
        'road'
    """

    def __init__(
        self,
        net: Segmenter,
        config: Config,
        data: ModelData,
        device: Device,
        checkpoint: CheckpointSource,
        network: str,
        step: int,
        weights: str = "none",
    ):
        self.net = net
        self.config = config
        self.data = data
        self.device = device
        self.checkpoint = checkpoint
        self.network = network
        self.step = step
        self.weights = weights
        self.window = config.train.sliding_window

    @property
    def classes(self) -> list[str]:
        return self.data.classes

    @property
    def colors(self) -> list[list[int]]:
        return self.data.colors

    def __call__(self, image: ImageLike, tta: Tta = NO_TTA) -> Prediction:
        """Predict one image.

        Args:
            image: a PIL image; an array u8[H, W, C] or, of one channel, u8[H, W]; a tensor
                u8[C, H, W]; or a file, which is read as `prepare` reads it.
            tta: flips and scales over whose predictions the mean is taken.

        Returns:
            Classes and probabilities at the image's own size.

        Raises:
            InputError: the image cannot be read, or has other channels than the training data.

        Example:
            >>> prediction = predictor(np.zeros((64, 96, 3), np.uint8))
            >>> prediction.probabilities.shape == (len(predictor.classes), 64, 96)
            True
        """
        picture = self.to_picture(image)
        scores, are_probs = self.scores(picture, (picture.height, picture.width), tta)
        classes = scores.argmax(0).to(torch.uint8)
        probs = iou.probabilities(scores[None], are_probs)[0]
        return Prediction(classes.cpu().numpy(), probs.cpu().numpy())

    def to_picture(self, image: ImageLike) -> Picture:
        """An image with the channels that the network takes.

        Raises:
            InputError: it cannot be read, or has others.
        """
        if isinstance(image, str | Path):
            return read_input(Path(image), self.data)
        if isinstance(image, BandImage):
            self._check_channels(len(image.planes))
            return image
        if isinstance(image, Image.Image):
            self._check_channels(3)
            return image.convert("RGB")
        if isinstance(image, Tensor):
            image = image.detach().cpu().numpy()
            image = np.moveaxis(image, 0, -1) if image.ndim == 3 else image
        return self._picture_of_array(image)

    def _picture_of_array(self, pixels: np.ndarray) -> Picture:
        if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3):
            raise InputError(
                f"an image must be u8[H, W, C] or a tensor u8[C, H, W], not {pixels.dtype} of "
                f"shape {list(pixels.shape)}"
            )
        if pixels.ndim == 2:
            repeats = 3 if self.data.num_channels == 3 else 1  # grey
            pixels = np.repeat(pixels[..., None], repeats, axis=-1)
        self._check_channels(pixels.shape[-1])
        if self.data.num_channels == 3:
            return Image.fromarray(np.ascontiguousarray(pixels))
        return BandImage(np.moveaxis(pixels, -1, 0))

    def _check_channels(self, found: int) -> None:
        if found != self.data.num_channels:
            raise InputError(
                f"the image has {found} channels, the network was trained on "
                f"{self.data.num_channels}"
            )

    def scores(
        self, picture: Picture, size: tuple[int, int], tta: Tta = NO_TTA
    ) -> tuple[Tensor, bool]:
        """Scores f32[K, H, W] of one image at `size`, and whether they are probabilities.

        Without `tta` they are those by which training scored val and test.

        Raises:
            InputError: the image is too small for the network.
        """
        if self.config.data.image_size:
            height, width = self.config.data.image_size
            picture = picture.resize((width, height), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).to(self.device.torch)
        with self._size_errors(picture), self.device.autocast():
            return self._scores(pixels[None], size, tta)

    def outputs(self, picture: Picture) -> tuple[Tensor, Tensor]:
        """Logits f[1, K, H', W'] and `feat` f[1, C, h, w] of an image as it is, in one forward.

        Both are of the canvas: the image, padded on the right and below.

        Raises:
            InputError: the image is too small for the network.
        """
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).to(self.device.torch)
        with self._size_errors(picture), self.device.autocast():
            logits, feat = self.net.forward_canvas(pixels[None])
            return logits, feat

    @contextmanager
    def _size_errors(self, picture: Picture) -> Iterator[None]:
        try:
            yield
        except ValueError as error:  # a normalisation of one value, below about 32 pixels
            raise InputError(
                f"an image of {picture.width} x {picture.height} pixels is too small for "
                f"{self.config.model.decoder} on {self.config.model.encoder} ({error})"
            ) from None

    def _scores(self, images: Tensor, size: tuple[int, int], tta: Tta) -> tuple[Tensor, bool]:
        if tta == NO_TTA:
            scores, are_probs = iou.predict_scores(self.net, images, size, self.window)
            return scores[0], are_probs
        views = [
            iou.probabilities(*iou.predict_scores(self.net, view, size, self.window))
            for view in tta.views(images)
        ]
        undone = [tta.undo(probs, number) for number, probs in enumerate(views)]
        return torch.stack(undone).mean(0)[0], True

    def tile_probabilities(self, pixels: np.ndarray, tta: Tta = NO_TTA) -> Tensor:
        """Probabilities f32[K, H, W] of a tile u8[H, W, C] of a larger image, at its own size."""
        tile = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)
        size = (pixels.shape[0], pixels.shape[1])
        with self.device.autocast():
            scores, are_probs = self._scores(tile[None].to(self.device.torch), size, tta)
        return iou.probabilities(scores[None], are_probs)[0].cpu()

    def describe(self) -> list[str]:
        """Lines for a person: the checkpoint, the network, the classes."""
        model = self.config.model
        lines = [
            f"model: {self.checkpoint.describe()}, {self.network} at step {self.step}",
            f"{model.decoder} on {model.encoder}, {len(self.classes)} classes; {self.device}",
        ]
        if not self.data.table:
            lines.append("an older checkpoint: it does not know the colours of its classes")
        return lines
