"""How one photo becomes many: crops, mirrored margins, flips, turns and colours, the boxes moved along."""

import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from lookalike.preprocessing import Preprocess
from lookalike.schemas import Box
from training.detector.config import AugmentSettings

_MAX_HUE = 0.05
_GREY = [114, 114, 114]


class Sample(NamedTuple):
    """One input of the network."""

    pixels: NDArray[np.uint8]  # (h, w, 3) RGB
    subjects: NDArray[np.float32]  # (g, 4) xyxy in input pixels
    ignored: NDArray[np.float32]  # (k, 4)


def augment(
    image: Image.Image,
    subjects: Sequence[Box],
    ignored: Sequence[Box],
    rectangular: bool,
    settings: AugmentSettings,
    preprocess: Preprocess,
    generator: np.random.Generator,
    rendered: bool = False,
) -> Sample:
    """Return a random view of `image` (RGB), fitted to the network's input.

    A `rendered` image was drawn turned, warped and placed at random: only its colours change. Photos whose subject is
    not `rectangular` are not turned or warped: the box around a turned box would be too large for what is in it.
    """
    boxes = np.array([*subjects, *ignored], np.float32).reshape(-1, 4)
    if not rendered:
        image, boxes = _moved(image, boxes, len(subjects), settings, generator)
    pixels = preprocess.fit(image)
    scale = np.array([preprocess.width_px / image.width, preprocess.height_px / image.height] * 2, np.float32)
    tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    # torchvision draws from torch's global generator: seeded for this view alone, a view never depends on the others.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(generator.integers(2**62)))
        tensor, boxes = _transformed(tensor, boxes * scale, rectangular and not rendered, settings)
    pixels = tensor.permute(1, 2, 0).contiguous().numpy()
    if generator.random() < settings.jpeg:
        pixels = _compressed(pixels, int(generator.integers(40, 95)))
    kept = boxes[len(subjects) :]
    sides = kept[:, 2:] - kept[:, :2]
    kept = kept[(sides > 2).all(axis=1)]
    return Sample(pixels, boxes[: len(subjects)], kept)


def _moved(
    image: Image.Image,
    boxes: NDArray[np.float32],
    subjects: int,
    settings: AugmentSettings,
    generator: np.random.Generator,
) -> tuple[Image.Image, NDArray[np.float32]]:
    draw = generator.random()
    if draw < settings.crop:
        frame = _frame_around(boxes[:subjects], image.size, generator)
    elif draw < settings.crop + settings.cut and subjects == 1:
        frame = _frame_through(boxes[0], image.size, settings.cut_most, generator)
    elif draw < settings.crop + settings.cut + settings.extend:
        return _extended(image, boxes, generator)
    else:
        return image, boxes
    x1, y1, x2, y2 = frame
    moved = boxes - np.array([x1, y1, x1, y1], np.float32)
    return image.crop(frame), np.clip(moved, 0, np.array([x2 - x1, y2 - y1] * 2, np.float32))


def _frame_around(
    boxes: NDArray[np.float32], size: tuple[int, int], generator: np.random.Generator
) -> tuple[int, int, int, int]:
    """Return a crop that loses some of each margin and nothing of `boxes`."""
    x1, y1 = boxes[:, :2].min(axis=0) * generator.random(2)
    right, bottom = boxes[:, 2:].max(axis=0)
    x2, y2 = size - (size - np.array([right, bottom])) * generator.random(2)
    return int(x1), int(y1), int(np.ceil(x2)), int(np.ceil(y2))


def _frame_through(
    box: NDArray[np.float32], size: tuple[int, int], most: float, generator: np.random.Generator
) -> tuple[int, int, int, int]:
    """Return a crop that loses up to `most` of `box` at one side, as photos of things too near do."""
    frame = [0, 0, *size]
    side = int(generator.integers(4))
    edge = float(box[side % 2 + 2] - box[side % 2])
    inwards = edge * most * generator.random()
    frame[side] = round(float(box[side]) + (inwards if side < 2 else -inwards))
    return frame[0], frame[1], max(frame[2], frame[0] + 2), max(frame[3], frame[1] + 2)


def _extended(
    image: Image.Image, boxes: NDArray[np.float32], generator: np.random.Generator
) -> tuple[Image.Image, NDArray[np.float32]]:
    """Mirror margins outwards, so that the subject is smaller; less than a margin, so that it is not there twice."""
    margins = np.array([*boxes[:, :2].min(axis=0), *(np.array(image.size) - boxes[:, 2:].max(axis=0))])
    left, top, right, bottom = (int(x) for x in 0.9 * margins * generator.random(4))
    grown = np.pad(np.asarray(image), ((top, bottom), (left, right), (0, 0)), mode="symmetric")
    return Image.fromarray(grown), boxes + np.array([left, top, left, top], np.float32)


def _compressed(pixels: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    stored = io.BytesIO()
    Image.fromarray(pixels).save(stored, "JPEG", quality=quality)
    return np.array(Image.open(stored))


def _transformed(
    pixels: Tensor, boxes: NDArray[np.float32], turned: bool, settings: AugmentSettings
) -> tuple[Tensor, NDArray[np.float32]]:
    steps: list[v2.Transform] = [v2.RandomHorizontalFlip(settings.flip)]
    if turned:
        turn = v2.RandomRotation(settings.turn_degrees, v2.InterpolationMode.BILINEAR, fill=_GREY)
        steps += [v2.RandomApply([turn], settings.turn)]
        steps += [v2.RandomPerspective(settings.warp_scale, settings.warp, fill=_GREY)]
    strength = settings.colour_strength
    steps += [
        v2.RandomApply([v2.ColorJitter(strength, strength, strength, _MAX_HUE)], settings.colour),
        v2.RandomGrayscale(settings.grey),
        v2.RandomApply([v2.GaussianBlur(5, (0.3, 1.5))], settings.blur),
    ]
    size = (pixels.shape[1], pixels.shape[2])
    found = tv_tensors.BoundingBoxes(torch.from_numpy(boxes), format="XYXY", canvas_size=size)
    image, found = v2.Compose(steps)(tv_tensors.Image(pixels), found)
    return image.as_subclass(torch.Tensor), found.as_subclass(torch.Tensor).numpy()
