"""Who embeds an image that several items share: the part that asks first, for ever."""

from collections.abc import Sequence


class Claims:
    """The part that each image belongs to, by the image's sha256.

    A part that asks again gets the same answer, so that its work can be repeated after a failure.
    """

    def __init__(self) -> None:
        self._part_of: dict[bytes, int] = {}

    def claim(self, part: int, keys: Sequence[bytes]) -> list[bool]:
        """Return for each image whether it is `part` that embeds it."""
        return [self._part_of.setdefault(key, part) == part for key in keys]


def spread(keys: Sequence[bytes], count: int) -> list[int]:
    """Return for each image which of `count` registries knows it."""
    return [int.from_bytes(key[:4]) % count for key in keys]
