"""The pictures that the metadata network learns from, decoded once, and the random views of a batch of them."""

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from lookalike.config import ImageLimits
from lookalike.errors import LookalikeError, SetupError
from lookalike.images import decode_image
from lookalike.preprocessing import Preprocess
from training.metadata.config import TrainingConfig
from training.metadata.data import ImageFiles, Row, ZipImages, class_numbers, label_lists, random_part, read_rows
from training.metadata.network import halved
from training.metadata.sets import SPLITS, is_fitted_on

T = TypeVar("T")
_HALVED_AT_ONCE = 256

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pictures:
    """Rows and their pixels `(n, h, w, 3)` uint8, halved, in the same order."""

    rows: list[Row]
    pixels: Tensor

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class LearningSet:
    """What the network learns from and is validated on; `copies` says how often each row of `train` is shown."""

    labels: dict[str, list[str]]
    train: Pictures
    copies: NDArray[np.int64]
    val: Pictures

    def only(self, attributes: Sequence[str] | None) -> "LearningSet":
        """Return the same pictures with the labels of some attributes; all of them for None.

        Raises:
            SetupError: for an attribute that has no head.
        """
        if attributes is None:
            return self
        if unknown := [name for name in attributes if name not in self.labels]:
            raise SetupError(f"no attribute {', '.join(unknown)} has a head", allowed=sorted(self.labels))
        return replace(self, labels={name: self.labels[name] for name in attributes})

    def part(self, share: float, seed: int) -> "LearningSet":
        """Return this set with a random share of its train pictures; labels and val stay.

        Raises:
            SetupError: for a share that is not above 0 and at most 1.
        """
        kept = random_part(len(self.train), share, seed)
        train = Pictures([self.train.rows[number] for number in kept], self.train.pixels[torch.from_numpy(kept)])
        return replace(self, train=train, copies=self.copies[kept])

    def classes(self, pictures: Pictures) -> dict[str, Tensor]:
        """Return each attribute's class numbers `(n,)` int64."""
        return {name: torch.from_numpy(numbers) for name, numbers in class_numbers(pictures.rows, self.labels).items()}


def read_learning_set(config: TrainingConfig, data_dir: Path, preprocess: Preprocess) -> LearningSet:
    """Read the train split, its sharper copies, the user photos that are not held out, and the val split.

    Raises:
        SetupError: for data that is missing or wrong.
    """
    paths = config.data
    images, hires = ZipImages(data_dir / paths.images), ZipImages(data_dir / paths.hires)
    rows = read_rows(data_dir / paths.manifest, "id", config.columns, splits=SPLITS)
    train_rows = [row for row in rows if row.split == "train"]
    photos = read_rows(data_dir / paths.user_photos, "image", [*paths.user_columns, "sender_id"])
    fitted = [row for row in photos if is_fitted_on(row)]
    sharp = [row for row in train_rows if hires.has(row.image)]
    parts = [
        read_pictures("train", data_dir / paths.manifest, images, train_rows, preprocess),
        read_pictures("train, sharper", data_dir / paths.manifest, hires, sharp, preprocess),
        read_pictures(
            "user photos", data_dir / paths.user_photos, ZipImages(data_dir / paths.user_images), fitted, preprocess
        ),
    ]
    copies = np.repeat([1, config.copies.hires, config.copies.user_photos], [len(part) for part in parts])
    train = Pictures([row for part in parts for row in part.rows], torch.cat([part.pixels for part in parts]))
    val_rows = [row for row in rows if row.split == "val"]
    val = read_pictures("val", data_dir / paths.manifest, images, val_rows, preprocess)
    return LearningSet(label_lists(parts[0].rows, config.heads, config.min_count), train, copies, val)


def read_pictures(
    name: str, manifest: Path, files: ImageFiles, rows: Sequence[Row], preprocess: Preprocess
) -> Pictures:
    """Return the pictures that can be read; each other one is named by its line.

    Raises:
        SetupError: when none can.
    """
    kept: list[Row] = []
    pixels: list[Tensor] = []
    found = decoded(name, manifest, files, rows, lambda image: preprocess.fit(image).copy())
    # Many at a time: torch's threads, called for each picture, took the cores from those that decode.
    while part := list(islice(found, _HALVED_AT_ONCE)):
        kept += [row for row, _ in part]
        pixels.append(halved(torch.from_numpy(np.stack([fitted for _, fitted in part]))))
    return Pictures(kept, torch.cat(pixels))


def decoded(
    name: str, manifest: Path, files: ImageFiles, rows: Sequence[Row], made: Callable[[Image.Image], T]
) -> Iterator[tuple[Row, T]]:
    """Yield each row whose picture can be read and what is `made` of it (RGB); each other one is named by its line.

    Raises:
        SetupError: at the end, when none could be read.
    """
    wrong = 0

    def one(row: Row) -> T | Exception:
        try:
            return made(decode_image(files.read(row.image), ImageLimits()).pixels)
        except (LookalikeError, OSError, KeyError) as error:
            return error

    # Decoding and resizing leave the interpreter's lock; --threads holds for them too.
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        results = tqdm(pool.map(one, rows), name, len(rows), unit="image", mininterval=5)
        for row, result in zip(rows, results, strict=True):
            if isinstance(result, Exception):
                _log.warning("%s, line %d: image %r: %s", manifest, row.line, row.image, result)
                wrong += 1
            else:
                yield row, result
    if wrong == len(rows):
        raise SetupError(f"{name}: none of {len(rows)} images of {manifest} can be read")


def random_views(pixels: Tensor, edge_px: int, smallest_edge: float, light: float, dice: torch.Generator) -> Tensor:
    """Return `(n, edge_px, edge_px, 3)` uint8: another framing, side and light of each picture; hues stay.

    A frame keeps `smallest_edge` to 110 % of each edge, off centre; white lies beyond the picture, as a shop's ground.
    """
    count = len(pixels)

    def drawn(low: float, high: float) -> Tensor:
        return (low + (high - low) * torch.rand(count, generator=dice)).to(pixels.device)

    scale_x, scale_y = drawn(smallest_edge, 1.1), drawn(smallest_edge, 1.1)
    side = torch.where(drawn(0, 1) < 0.5, -1.0, 1.0)
    matrix = torch.zeros(count, 2, 3, device=pixels.device)
    matrix[:, 0, 0], matrix[:, 1, 1] = side * scale_x, scale_y
    matrix[:, 0, 2], matrix[:, 1, 2] = drawn(-1, 1) * (1 - scale_x).abs(), drawn(-1, 1) * (1 - scale_y).abs()
    grid = F.affine_grid(matrix, [count, 3, edge_px, edge_px], align_corners=False)
    # Darkness is sampled, so that the zeros beyond the edge are white.
    darkness = 255 - pixels.permute(0, 3, 1, 2).float()
    framed = 255 - F.grid_sample(darkness, grid, padding_mode="zeros", align_corners=False)
    mean = framed.mean(dim=(1, 2, 3), keepdim=True)
    contrast, brightness = drawn(1 - light, 1 + light).view(-1, 1, 1, 1), drawn(1 - light, 1 + 0.75 * light)
    lit = ((framed - mean) * contrast + mean) * brightness.view(-1, 1, 1, 1)
    return lit.clamp(0, 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
