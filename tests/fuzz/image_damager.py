"""Damages pictures of every format in many seeded ways and decodes them; ends at what is no typed error, or too much.

A process of its own, as decoders are C: `python -m tests.fuzz.image_damager FIRST COUNT`.
"""

import random
import sys
import warnings
from collections import Counter

from lookalike.config import ImageLimits
from tests.e2e.catalogue_drawn import draw, encoded
from tests.fuzz.decode_meter import measured
from tests.unit.image_samples import SAMPLES

# Who is refused for what it is costs nothing; who claims pixels within the limits, and has none, costs those pixels.
MAX_EXTRA_MIB = {"image_too_large": 64.0, "unsupported_image": 64.0}
MAX_EXTRA_MIB_OF_PIXELS = 64 + 4 * ImageLimits().max_pixels / (1 << 20)
FORMATS = {"JPEG": "JPEG", "PNG": "PNG", "WEBP": "WEBP", "GIF": "GIF", "TIFF": "TIFF", "HEIC": "HEIF", "AVIF": "AVIF"}
MARKS = (0x00, 0x01, 0x7F, 0x80, 0xDA, 0xD9, 0xFE, 0xFF)


def pictures() -> dict[str, bytes]:
    """Return the encoded samples, and a larger picture in each format."""
    large = draw("ring", "green", 7)
    small = {name: make().data for name, make in SAMPLES.items()}
    return small | {f"{name} 320x320": encoded(large, kind) for name, kind in FORMATS.items()}


def damaged(data: bytes, others: list[bytes], chance: random.Random) -> bytes:
    """Return `data` with one to four things wrong with it."""
    made = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4))):
        at = chance.choice((chance.randrange(len(made)), chance.randrange(min(400, len(made)))))
        how = chance.choice(("set", "set", "set", "number", "cut", "repeat", "remove", "graft"))
        if how == "set":
            made[at] = chance.choice((*MARKS, chance.randrange(256)))
        elif how == "number":
            size = chance.choice((2, 4, 8))
            value = chance.choice((0, 1, 2 ** (8 * size) - 1, 2 ** (8 * size - 1), chance.randrange(2 ** (8 * size))))
            made[at : at + size] = value.to_bytes(size, chance.choice(("little", "big")))
        elif how == "cut":
            del made[max(1, at) :]
        elif how == "repeat":
            made[at:at] = made[at : at + chance.randrange(1, 200)] * chance.randrange(1, 50)
        elif how == "remove":
            del made[at : at + chance.randrange(1, 30)]
        else:
            other = chance.choice(others)
            start = chance.randrange(len(other))
            made[at : at + 60] = other[start : start + 60]
        made = made or bytearray(b"\0")
    return bytes(made)


def run(first: int, count: int) -> tuple[Counter[str], float, float]:
    """Try `count` seeds from `first` on; return how often each outcome came, and the most ms and MiB of one."""
    samples = pictures()
    names, others = sorted(samples), list(samples.values())
    outcomes: Counter[str] = Counter()
    most_ms = most_mib = 0.0
    for data in others:
        measured(data)  # what libraries keep from their first use on is not of a damaged file
    for seed in range(first, first + count):
        chance = random.Random(seed)
        name = chance.choice(names)
        print(f"{seed}: {name}", file=sys.stderr, flush=True)
        told = measured(damaged(samples[name], others, chance))
        outcome, mib, ms = str(told["outcome"]), float(str(told["mib"])), float(str(told["ms"]))
        outcomes[outcome] += 1
        most_mib = max(most_mib, mib)
        if outcome != "decoded":
            most_ms = max(most_ms, ms)
        if mib > MAX_EXTRA_MIB.get(outcome, MAX_EXTRA_MIB_OF_PIXELS):
            raise SystemExit(f"seed {seed}, {name}: {mib:.0f} MiB for what ended as {outcome}")
    return outcomes, most_ms, most_mib


if __name__ == "__main__":
    warnings.simplefilter("error")
    outcomes, most_ms, most_mib = run(int(sys.argv[1]), int(sys.argv[2]))
    print(f"{dict(outcomes)}; refused within {most_ms:.0f} ms, at most {most_mib:.0f} MiB beyond the body")
