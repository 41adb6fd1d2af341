"""A file is written wholly or not at all, and a disk that takes nothing is named."""

import errno
import os
from pathlib import Path

import pytest

from lookalike.errors import NotStored
from lookalike.index.durable import replace_file, told_when_not_stored


def test_what_could_not_be_written_leaves_the_old_content_and_nothing_else(
    tmp_path: Path, file_size_limit: None
) -> None:
    file = tmp_path / "CURRENT"
    replace_file(file, b"old")
    with pytest.raises(OSError, match="File too large"):
        replace_file(file, bytes(10_000_000))
    assert [path.name for path in tmp_path.iterdir()] == ["CURRENT"]
    assert file.read_bytes() == b"old"


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (errno.ENOSPC, "no space left to write under"),
        (errno.EDQUOT, "no space left to write under"),
        (errno.EROFS, "cannot be written"),
        (errno.EACCES, "cannot be written"),
    ],
)
def test_the_folder_and_the_reason_are_named(tmp_path: Path, number: int, told: str) -> None:
    with pytest.raises(NotStored) as caught, told_when_not_stored(tmp_path):
        raise OSError(number, os.strerror(number))
    assert told in caught.value.message and str(tmp_path) in caught.value.message
    assert os.strerror(number) in caught.value.message


def test_another_error_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), told_when_not_stored(tmp_path):
        (tmp_path / "none").read_bytes()
