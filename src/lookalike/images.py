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
    """An image in mode RGB after EXIF rotation, and what it was."""

    pixels: Image.Image
    info: ImageInfo


def decode_image(data: bytes, limits: ImageLimits) -> DecodedImage:
    """Decode the first frame of an encoded image to RGB: EXIF rotation applied, transparency on white, in sRGB.

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
    return DecodedImage(pixels, ImageInfo(width=pixels.width, height=pixels.height, format=screened.format))


def crop_box(image: Image.Image, box: Box) -> Image.Image:
    """Return the pixels inside `box`, rounded outward to whole pixels and clipped to the image.

    Raises:
        InvalidOption: nothing of the box lies inside the image.
    """
    width, height = image.size
    x1, y1, x2, y2 = box
    if all(map(math.isfinite, box)) and x1 < x2 and y1 < y2:
        left, top = max(0, math.floor(x1)), max(0, math.floor(y1))
        right, bottom = min(width, math.ceil(x2)), min(height, math.ceil(y2))
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


def _turn_upright(image: Image.Image, orientation: int) -> Image.Image:
    method = _UPRIGHT.get(orientation)
    return image if method is None else image.transpose(method)


def _refusal(image_format: str, error: Exception) -> LookalikeError:
    if _NOT_READ.search(str(error)):
        return UnsupportedImage(f"this variant of {image_format} is not read: {error}", allowed=FORMATS)
    return CorruptImage(f"the {image_format} image is truncated or damaged: {error or type(error).__name__}")
