"""Any decoded image becomes 8-bit sRGB on white here: depth, palette, transparency, CMYK, ICC profiles."""

import functools
import io

import numpy as np
from PIL import Image, ImageCms

# The transform is shared by threads: Little CMS asks that its one-pixel cache be off then.
_FLAGS = ImageCms.Flags.NOCACHE | ImageCms.Flags.BLACKPOINTCOMPENSATION
_COLOUR_SPACES = {"RGB": "RGB ", "L": "GRAY", "CMYK": "CMYK"}
_MAX_PROFILE_BYTES = 4_000_000  # the largest printing profiles have 3 MB
_SAME_COLOUR = 2  # of 255: a profile that moves no colour further than this is sRGB under another name


def to_rgb(image: Image.Image) -> Image.Image:
    """Return `image` in mode RGB, 8 bits, in sRGB, transparent parts on white.

    May return `image` itself, changed, where it is RGB already. A profile that is damaged or does not fit is ignored.
    """
    if image.mode == "LAB":
        return _lab_to_rgb(image)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _to_eight_bits(image)
    profile = image.info.get("icc_profile")
    if image.has_transparency_data:
        image = _on_white(image)
    elif image.mode not in _COLOUR_SPACES:
        image = image.convert("RGB")
    transform = _transform_to_srgb(profile, image.mode) if _is_plausible(profile) else None
    if transform is None:
        return image if image.mode == "RGB" else image.convert("RGB")
    converted = ImageCms.applyTransform(image, transform, inPlace=image.mode == "RGB")
    return image if converted is None else converted


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Scale deep greyscale: 16 bits by their full range; 32-bit integers and floats by the range that they use.

    Values within [0, 1] (floats), [0, 255] or [0, 65535] are read as having that range; others are stretched.
    """
    values = np.array(image)
    if values.dtype.itemsize == 2:
        return Image.fromarray((values >> 8).astype(np.uint8))
    # A damaged float may be no number at all, and casting a signalling NaN warns: both become black first.
    values = np.where(np.isfinite(values), values, 0).astype(np.float64)
    low, high = float(values.min()), float(values.max())
    if low >= 0 and high <= 65535:
        low, high = 0.0, 1.0 if image.mode == "F" and high <= 1 else 255.0 if high <= 255 else 65535.0
    values -= low
    values *= 255 / (high - low) if high > low else 0.0
    return Image.fromarray(np.rint(values, out=values).astype(np.uint8))


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode == "La":
        image = image.convert("LA")
    rgba = image if image.mode == "RGBA" else image.convert("RGBA")
    canvas = Image.new("RGB", image.size, "white")
    canvas.paste(rgba, mask=rgba)
    return canvas


def _lab_to_rgb(image: Image.Image) -> Image.Image:
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    converted = ImageCms.applyTransform(image, ImageCms.buildTransform(lab, srgb, "LAB", "RGB"))
    assert converted is not None
    return converted


def _is_plausible(profile: object) -> bool:
    return isinstance(profile, bytes) and 128 < len(profile) <= _MAX_PROFILE_BYTES


@functools.lru_cache(maxsize=16)
def _transform_to_srgb(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return the transform from a profile to sRGB, `None` where none is needed or the profile is of no use."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space != _COLOUR_SPACES[mode]:
            return None
        intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
        srgb = ImageCms.createProfile("sRGB")
        transform = ImageCms.buildTransform(source, srgb, mode, "RGB", intent, _FLAGS)
        return None if mode == "RGB" and _changes_nothing(transform) else transform
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None


def _changes_nothing(transform: ImageCms.ImageCmsTransform) -> bool:
    levels = np.arange(0, 256, 51, dtype=np.uint8)
    cube = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3)
    moved = np.asarray(ImageCms.applyTransform(Image.fromarray(cube), transform))
    return int(np.abs(moved.astype(int) - cube.astype(int)).max()) <= _SAME_COLOUR
