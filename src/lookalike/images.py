"""Encoded images become RGB pixels here: limits, formats, orientation; and the crop of a box."""

import io
import math
import re
from collections.abc import Callable
from typing import NamedTuple

from PIL import Image
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile
from pillow_heif import HeifImageFile

from lookalike.config import ImageLimits
from lookalike.errors import CorruptImage, ImageTooLarge, InvalidOption, LookalikeError, UnsupportedImage
from lookalike.image_colour import to_rgb
from lookalike.image_headers import FORMATS, exif_orientation, screen
from lookalike.schemas import Box, ImageInfo

# The readers are named one by one and never registered: nothing global changes, and no other format can be reached.
_READERS: dict[str, Callable[[io.BytesIO], Image.Image]] = {
    "JPEG": JpegImageFile,
    "PNG": PngImageFile,
    "WEBP": WebPImageFile,
    "GIF": GifImageFile,
    "BMP": BmpImageFile,
    "TIFF": TiffImageFile,
    "HEIC": HeifImageFile,
    "AVIF": AvifImageFile,
}

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Pillow raises the same types for a damaged file and for a variant that it does not read: only the words differ.
_NOT_READ = re.compile("unknown|unsupported|not (yet )?supported|cannot handle", re.IGNORECASE)


class DecodedImage(NamedTuple):
    """An image in mode RGB after EXIF rotation, and what it was; `pixels` may be fewer than `info` counts."""

    pixels: Image.Image
    info: ImageInfo

    @property
    def size(self) -> tuple[int, int]:
        """The width and height that boxes count."""
        return self.info.width, self.info.height

    def shows(self, box: Box, least_px: int) -> bool:
        """Tell whether a crop of `box` has every pixel there is, or `least_px` along its shortest edge."""
        return self.pixels.size == self.size or shortest_edge(box) * self.pixels.width / self.info.width >= least_px

    def crop(self, box: Box) -> Image.Image:
        """Return the pixels inside `box`; see `crop_box`."""
        return crop_box(self.pixels, box, self.size)

    def box_from_pixels(self, box: Box) -> Box:
        """Return a box that counts `pixels` in pixels of the whole image."""
        across, down = self.info.width / self.pixels.width, self.info.height / self.pixels.height
        return box[0] * across, box[1] * down, box[2] * across, box[3] * down


def decode_image(data: bytes, limits: ImageLimits, least_px: int | None = None, box: Box | None = None) -> DecodedImage:
    """Decode the first frame of an encoded image to RGB: EXIF rotation applied, transparency on white, in sRGB.

    Who needs no more than `least_px` along the shortest edge of the image, or of `box` in it, may get a JPEG at 1/2,
    1/4 or 1/8 of its size: its decoder then leaves out the frequencies that a resize would take away again.

    Raises:
        ImageTooLarge: more bytes, pixels or pixels along an edge than `limits` allow; nothing was decoded.
        UnsupportedImage: not one of `FORMATS`, or a rare variant of one that is not read.
        CorruptImage: truncated or damaged.
    """
    if len(data) > limits.max_bytes:
        raise ImageTooLarge(f"image has {len(data)} bytes", allowed=f"at most {limits.max_bytes} bytes")
    screened = screen(data)
    if screened.size is not None:
        check_size(screened.size, limits)
    try:
        with _READERS[screened.format](io.BytesIO(screened.data)) as image:
            check_size(image.size, limits)  # what the reader found counts, whatever the header seemed to say
            stored_size = image.size
            if least_px is not None:
                _draft(image, least_px, box)
            image.load()
            orientation = screened.orientation or exif_orientation(image.info.get("exif") or b"")
            pixels = _turn_upright(to_rgb(image), orientation)
    except LookalikeError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageTooLarge(str(error), allowed=f"at most {limits.max_pixels} pixels") from error
    except Exception as error:  # readers of damaged files raise whatever they stumble over
        raise _refusal(screened.format, error) from error
    pixels.info = {}  # the profile and the orientation are applied: nobody may apply them again
    width, height = pixels.size if image.size == stored_size else _upright_size(stored_size, orientation)
    return DecodedImage(pixels, ImageInfo(width=width, height=height, format=screened.format))


def crop_box(image: Image.Image, box: Box, size: tuple[int, int] | None = None) -> Image.Image:
    """Return the pixels inside `box`, rounded outward to whole pixels and clipped to the image.

    `size` is the width and height that `box` counts where `image` has fewer pixels than that.

    Raises:
        InvalidOption: nothing of the box lies inside the image.
    """
    width, height = size or image.size
    x1, y1, x2, y2 = box
    if all(map(math.isfinite, box)) and x1 < x2 and y1 < y2:
        across, down = image.width / width, image.height / height
        left, top = max(0, math.floor(x1 * across)), max(0, math.floor(y1 * down))
        right, bottom = min(image.width, math.ceil(x2 * across)), min(image.height, math.ceil(y2 * down))
        if left < right and top < bottom:
            return image.crop((left, top, right, bottom))
    raise InvalidOption(
        f"box {list(box)} holds no pixel of the image, which is {width}x{height} px",
        allowed=f"[x1, y1, x2, y2] with 0 <= x1 < x2 <= {width} and 0 <= y1 < y2 <= {height}",
    )


def check_size(size: tuple[int, int], limits: ImageLimits) -> None:
    """Accept an image of `size` (width, height); raises ImageTooLarge."""
    width, height = size
    if max(size) > limits.max_edge_px:
        allowed = f"at most {limits.max_edge_px} px along the longest edge"
    elif width * height > limits.max_pixels:
        allowed = f"at most {limits.max_pixels} pixels"
    else:
        return
    raise ImageTooLarge(f"image is {width}x{height} px", allowed=allowed)


def _draft(image: Image.Image, least_px: int, box: Box | None) -> None:
    """Let a JPEG be decoded as small as `least_px` allows; other readers have no such way and do nothing."""
    shortest_px = min(*image.size, shortest_edge(box)) if box else min(image.size)
    scale = next((scale for scale in (8, 4, 2) if shortest_px >= scale * least_px), 1)
    if scale > 1:
        image.draft(None, (image.width // scale, image.height // scale))


def shortest_edge(box: Box) -> float:
    """Return the shorter of a box's width and height."""
    return min(box[2] - box[0], box[3] - box[1])


def _upright_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    return (size[1], size[0]) if orientation >= 5 else size


def _turn_upright(image: Image.Image, orientation: int) -> Image.Image:
    method = _UPRIGHT.get(orientation)
    return image if method is None else image.transpose(method)


def _refusal(image_format: str, error: Exception) -> LookalikeError:
    if _NOT_READ.search(str(error)):
        return UnsupportedImage(f"this variant of {image_format} is not read: {error}", allowed=FORMATS)
    return CorruptImage(f"the {image_format} image is truncated or damaged: {error or type(error).__name__}")
