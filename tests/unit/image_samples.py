"""One drawn picture in every format, mode and orientation that a test of images needs."""

import io
import struct
import zlib
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
import pillow_heif
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageCms

Pixels = NDArray[np.uint8]
WIDTH, HEIGHT = 96, 64


class Sample(NamedTuple):
    """An encoded picture, and the pixels that decoding it should give, within a mean absolute error."""

    data: bytes
    expected: Pixels
    tolerance: float = 0.0


@cache
def picture() -> Image.Image:
    """Return a smooth RGB picture of 96x64 px that no rotation or mirroring maps onto itself."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    channels = (x * 255 / (WIDTH - 1), y * 255 / (HEIGHT - 1), 128 + 100 * np.sin(x / 14 + y / 9))
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


def encode(image: Image.Image, image_format: str, **options: Any) -> bytes:
    if image_format == "HEIF":
        pillow_heif.register_heif_opener()  # the only way to its writer of rotated pictures
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def pixels_of(image: Image.Image) -> Pixels:
    return np.asarray(image.convert("RGB"))


def half_transparent() -> tuple[Image.Image, Pixels]:
    """Return the picture with its right half transparent, and what it is on white."""
    rgba = picture().convert("RGBA")
    rgba.paste((0, 0, 0, 0), (WIDTH // 2, 0, WIDTH, HEIGHT))
    expected = pixels_of(picture()).copy()
    expected[:, WIDTH // 2 :] = 255
    return rgba, expected


def png_of_16_bit_rgb() -> bytes:
    deep = (pixels_of(picture()).astype(np.uint16) * 257).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in deep)
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 16, 2, 0, 0, 0)
    return png(("IHDR", header), ("IDAT", zlib.compress(rows)), ("IEND", b""))


def png(*chunks: tuple[str, bytes]) -> bytes:
    parts = [b"\x89PNG\r\n\x1a\n"]
    for name, body in chunks:
        kind = name.encode()
        parts += [struct.pack(">I", len(body)), kind, body, struct.pack(">I", zlib.crc32(kind + body))]
    return b"".join(parts)


def tiff(strip: bytes, changes: dict[str, int] | None = None, order: str = "<") -> bytes:
    """Return an uncompressed one-strip TIFF, tag by tag, so that a test may state any of them."""
    tags = {"width": 256, "height": 257, "bits": 258, "compression": 259, "photometric": 262, "offset": 273}
    tags |= {"samples": 277, "rows": 278, "bytes": 279, "tile_width": 322, "tile_height": 323}
    values = {"width": WIDTH, "height": HEIGHT, "bits": 8, "compression": 1, "photometric": 2, "offset": 8}
    values |= {"samples": 3, "rows": HEIGHT, "bytes": len(strip)} | (changes or {})
    magic = b"II*\0" if order == "<" else b"MM\0*"
    entries = b"".join(struct.pack(f"{order}HHII", tags[name], 4, 1, values[name]) for name in tags if name in values)
    directory = struct.pack(f"{order}H", len(values)) + entries + bytes(4)
    return magic + struct.pack(f"{order}I", 8 + len(strip)) + strip + directory


def ycck_jpeg() -> Sample:
    """Return a JPEG as Adobe writes it for print: inverted inks, of which three are told as luma and chroma."""
    # Pillow writes 255 minus what it is given, with the Adobe marker saying "CMYK"; byte 2 there says YCCK.
    ycc = np.asarray(ImageChops.invert(picture()).convert("YCbCr"))
    stored = np.dstack([ycc, np.full((HEIGHT, WIDTH), 255, np.uint8)])
    data = encode(Image.frombytes("CMYK", (WIDTH, HEIGHT), (255 - stored).tobytes()), "JPEG", quality=95)
    transform = data.index(b"Adobe") + 11
    return Sample(data[:transform] + b"\x02" + data[transform + 1 :], pixels_of(picture()), 3)


def os2_bmp() -> Sample:
    rows = np.asarray(picture())[::-1, :, ::-1].tobytes()  # bottom up, blue first
    header = struct.pack("<IHHHH", 12, WIDTH, HEIGHT, 1, 24)
    return Sample(b"BM" + struct.pack("<IHHI", 26 + len(rows), 0, 0, 26) + header + rows, pixels_of(picture()))


def run_length_bmp() -> Sample:
    grey = picture().convert("L")
    rows = (b"".join(bytes((1, level)) for level in row) + b"\0\0" for row in np.asarray(grey)[::-1])
    body = b"".join(rows) + b"\0\1"
    palette = b"".join(bytes((level, level, level, 0)) for level in range(256))
    header = struct.pack("<IiiHHIIiiII", 40, WIDTH, HEIGHT, 1, 8, 1, len(body), 0, 0, 256, 0)
    start = 14 + len(header) + len(palette)
    file_header = b"BM" + struct.pack("<IHHI", start + len(body), 0, 0, start)
    return Sample(file_header + header + palette + body, pixels_of(grey))


def heic_of_10_bits() -> Sample:
    deep = (np.asarray(picture()).astype(np.uint16) * 257).tobytes()
    buffer = io.BytesIO()
    pillow_heif.encode("RGB;16", (WIDTH, HEIGHT), deep, buffer, quality=90)
    return Sample(buffer.getvalue(), pixels_of(picture()), 3)


def profile_with_red_and_green_swapped() -> bytes:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return profile.replace(b"rXYZ", b"----", 1).replace(b"gXYZ", b"rXYZ", 1).replace(b"----", b"gXYZ", 1)


def _grey(image_format: str) -> Sample:
    grey = picture().convert("L")
    return Sample(encode(grey, image_format), pixels_of(grey), 2)


def _palette(image_format: str) -> Sample:
    palette = picture().quantize(32)
    return Sample(encode(palette, image_format), pixels_of(palette))


def _bilevel(image_format: str, **options: Any) -> Sample:
    bilevel = picture().convert("1")
    return Sample(encode(bilevel, image_format, **options), pixels_of(bilevel))


def _transparent(image_format: str, mode: str = "RGBA", tolerance: float = 0.0, **options: Any) -> Sample:
    rgba, expected = half_transparent()
    if mode == "LA":
        expected = pixels_of(Image.fromarray(expected).convert("L"))
    return Sample(encode(rgba.convert(mode), image_format, **options), expected, tolerance)


def _transparent_palette(image_format: str, transparency: int | bytes) -> Sample:
    stripes = Image.fromarray(np.tile(np.arange(WIDTH, dtype=np.uint8) // 24, (HEIGHT, 1)), "L")
    colours = [(200, 30, 30), (30, 200, 30), (30, 30, 200), (90, 90, 90)]
    stripes.putpalette([level for colour in colours for level in colour])
    expected = pixels_of(stripes).copy()
    expected[:, :24] = 255
    return Sample(encode(stripes, image_format, transparency=transparency), expected)


def _deep_grey(image_format: str, dtype: str, factor: float) -> Sample:
    grey = picture().convert("L")
    deep = (np.asarray(grey) * np.float64(factor)).astype(dtype)
    return Sample(encode(Image.fromarray(deep), image_format), pixels_of(grey), 0.6)


def _several(image_format: str, tolerance: float) -> Sample:
    frames = [picture().transpose(Image.Transpose.ROTATE_180)]
    data = encode(picture(), image_format, save_all=True, append_images=frames)
    return Sample(data, pixels_of(picture()), tolerance)


def _plain(image_format: str, tolerance: float = 0.0, **options: Any) -> Sample:
    return Sample(encode(picture(), image_format, **options), pixels_of(picture()), tolerance)


def _converted(image_format: str, mode: str, tolerance: float) -> Sample:
    return Sample(encode(picture().convert(mode), image_format), pixels_of(picture()), tolerance)


def _one_pixel(image_format: str) -> Sample:
    return Sample(
        encode(Image.new("RGB", (1, 1), (200, 100, 50)), image_format), np.array([[[200, 100, 50]]], np.uint8), 4
    )


TIFF_COMPRESSIONS = ("tiff_lzw", "tiff_deflate", "tiff_adobe_deflate", "packbits", "zstd", "lzma")

# name -> how to make it; the name begins with the format that decoding should report.
SAMPLES: dict[str, Callable[[], Sample]] = {
    "JPEG": lambda: _plain("JPEG", 2, quality=90),
    "JPEG progressive": lambda: _plain("JPEG", 2, quality=90, progressive=True),
    "JPEG grey": lambda: _grey("JPEG"),
    "JPEG CMYK": lambda: _converted("JPEG", "CMYK", 2),
    "JPEG YCCK": ycck_jpeg,
    "JPEG of several (MPO)": lambda: _several("MPO", 3),
    "PNG": lambda: _plain("PNG"),
    "PNG grey": lambda: _grey("PNG"),
    "PNG grey 16 bits": lambda: _deep_grey("PNG", "uint16", 257),
    "PNG 16 bits a channel": lambda: Sample(png_of_16_bit_rgb(), pixels_of(picture())),
    "PNG palette": lambda: _palette("PNG"),
    "PNG palette, one colour transparent": lambda: _transparent_palette("PNG", 0),
    "PNG palette with alpha": lambda: _transparent_palette("PNG", bytes([0, 255, 255, 255])),
    "PNG alpha": lambda: _transparent("PNG"),
    "PNG grey alpha": lambda: _transparent("PNG", "LA"),
    "PNG 1 bit": lambda: _bilevel("PNG"),
    "PNG animated": lambda: _several("PNG", 0),
    "WEBP": lambda: _plain("WEBP", 3, quality=90),
    "WEBP lossless": lambda: _plain("WEBP", lossless=True),
    "WEBP alpha": lambda: _transparent("WEBP", lossless=True),
    "WEBP animated": lambda: _several("WEBP", 4),
    "GIF": lambda: _palette("GIF"),
    "GIF grey": lambda: _grey("GIF"),
    "GIF transparent": lambda: _transparent_palette("GIF", 0),
    "GIF animated": lambda: _several("GIF", 12),
    "BMP": lambda: _plain("BMP"),
    "BMP palette": lambda: _palette("BMP"),
    "BMP of OS/2": os2_bmp,
    "BMP of run lengths": run_length_bmp,
    "BMP 1 bit": lambda: _bilevel("BMP"),
    "TIFF": lambda: _plain("TIFF"),
    **{f"TIFF {how}": partial(_plain, "TIFF", compression=how) for how in TIFF_COMPRESSIONS},
    "TIFF jpeg": lambda: _plain("TIFF", 3, compression="jpeg"),
    "TIFF big": lambda: _plain("TIFF", big_tiff=True, compression="tiff_lzw"),
    "TIFF fax": lambda: _bilevel("TIFF", compression="group4"),
    "TIFF palette": lambda: _palette("TIFF"),
    "TIFF alpha": lambda: _transparent("TIFF"),
    "TIFF CMYK": lambda: _converted("TIFF", "CMYK", 0.5),
    "TIFF YCbCr": lambda: _converted("TIFF", "YCbCr", 2),
    "TIFF grey 16 bits": lambda: _deep_grey("TIFF", "uint16", 257),
    "TIFF grey 32-bit integers": lambda: _deep_grey("TIFF", "int32", 257),
    "TIFF grey floats in [0, 1]": lambda: _deep_grey("TIFF", "float32", 1 / 255),
    "TIFF grey floats in [0, 255]": lambda: _deep_grey("TIFF", "float32", 1),
    "TIFF of several": lambda: _several("TIFF", 0),
    "TIFF big-endian": lambda: Sample(tiff(picture().tobytes(), order=">"), pixels_of(picture())),
    "HEIC": lambda: _plain("HEIF", 3, quality=90),
    "HEIC alpha": lambda: _transparent("HEIF", tolerance=3, quality=90),
    "HEIC 10 bits": heic_of_10_bits,
    "AVIF": lambda: _plain("AVIF", 3, quality=90),
    "AVIF alpha": lambda: _transparent("AVIF", tolerance=3, quality=90),
    "AVIF animated": lambda: _several("AVIF", 3),
    **{f"{f} 1x1": partial(_one_pixel, f) for f in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")},
}
