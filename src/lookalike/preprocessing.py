"""How an image becomes a network's input: the geometry here, the normalisation inside the exported graph."""

import hashlib
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, Field

from lookalike.errors import InvalidRequest

# `left` and `right` keep the aspect ratio and cut off what does not fit: at the far side of a wide image, at the bottom
# (`left`) or the top (`right`) of a tall one.
Resize = Literal["squash", "pad", "left", "right"]
# A large image is brought to 1.15 to 2.3 times the input by averaging whole blocks of pixels, and only then resampled:
# in half of the time, at no loss that was found (docs/images.md).
_REDUCING_GAP = 1.15
_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


class Preprocess(BaseModel, extra="forbid", frozen=True):
    """A model's `preprocess.json`, which travels with its weights."""

    height_px: Annotated[int, Field(gt=0)]
    width_px: Annotated[int, Field(gt=0)]
    resize: Resize = "squash"
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @property
    def least_px(self) -> int:
        """The shortest edge that an image needs so that no pixel of the input is made up: see `decode_image`."""
        return 2 * max(self.width_px, self.height_px)

    def digest(self) -> str:
        """Return 16 hex digits that are equal when `fit` does the same; the normalisation is the network's own."""
        geometry = self.model_dump_json(exclude={"mean", "std"})
        return hashlib.sha256(geometry.encode()).hexdigest()[:16]

    def fit(self, image: Image.Image) -> NDArray[np.uint8]:
        """Return `image` (RGB) as `(height_px, width_px, 3)` uint8; `pad` shows it whole on a white ground."""
        size, resampling = (self.width_px, self.height_px), _RESAMPLING[self.interpolation]
        if self.resize != "pad":
            return np.asarray(image.resize(size, resampling, self._seen(image.size), reducing_gap=_REDUCING_GAP))
        canvas = Image.new("RGB", size, "white")
        left, top, width, height = self._placement(image.size)
        canvas.paste(image.resize((width, height), resampling, reducing_gap=_REDUCING_GAP), (left, top))
        return np.asarray(canvas)

    def unfit_boxes(self, boxes: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
        """Return `boxes` `(n, 4)` in input pixels as pixels of the image of `size` (width, height), clipped to it."""
        left, top, width, height = self._placement(size)
        x1, y1, x2, y2 = self._seen(size)
        offset = np.array([left, top] * 2, np.float32)
        scale = np.array([(x2 - x1) / width, (y2 - y1) / height] * 2, np.float32)
        limit = np.array([size[0], size[1]] * 2, np.float32)
        clipped: NDArray[np.float32] = np.clip((boxes - offset) * scale + np.array([x1, y1] * 2, np.float32), 0, limit)
        return clipped

    def _seen(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """Return the part of an image of `size` that the input shows; all of it unless a side is cut off."""
        width, height = size
        if self.resize not in ("left", "right"):
            return 0, 0, width, height
        scale = max(self.width_px / width, self.height_px / height)
        seen_width, seen_height = min(width, self.width_px / scale), min(height, self.height_px / scale)
        if self.resize == "left":
            return 0, 0, seen_width, seen_height
        return width - seen_width, height - seen_height, width, height

    def _placement(self, size: tuple[int, int]) -> tuple[int, int, int, int]:
        """Return where what is seen of an image of `size` lies in the input: left, top, width, height."""
        if self.resize != "pad":
            return 0, 0, self.width_px, self.height_px
        scale = min(self.width_px / size[0], self.height_px / size[1])
        width, height = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
        return (self.width_px - width) // 2, (self.height_px - height) // 2, width, height

    def fits(self, pixels: NDArray[np.uint8]) -> bool:
        """Tell whether `pixels` `(n, h, w, 3)` already have this input's size."""
        return pixels.shape[1:] == (self.height_px, self.width_px, 3)

    def check(self, pixels: NDArray[np.generic], max_images: int) -> None:
        """Accept `(n, height_px, width_px, 3)` uint8 with `n <= max_images`.

        Raises:
            InvalidRequest: for anything else, saying what is allowed.
        """
        wanted = f"uint8 of shape (n, {self.height_px}, {self.width_px}, 3) with n <= {max_images}"
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != (self.height_px, self.width_px, 3):
            raise InvalidRequest(f"pixels are {pixels.dtype} of shape {pixels.shape}", allowed=wanted)
        if len(pixels) > max_images:
            raise InvalidRequest(f"{len(pixels)} images in one call", allowed=wanted)
