import json
from pathlib import Path

import pytest

from lookalike.errors import IndexDamaged
from lookalike.index.manifest import MANIFEST, FileEntry, Manifest, read_manifest


def written(tmp_path: Path, **changes: object) -> Path:
    """Write a good manifest in the folder of its name, then change fields of the file."""
    manifest = Manifest(
        version="",
        created="2025-01-01T00:00:00+00:00",
        kind="flat",
        embedder="colours",
        fingerprint="f" * 16,
        dim=48,
        count=3,
        files={"vectors.npy": FileEntry(sha256="0" * 64, bytes=1)},
    ).named(7)
    folder = tmp_path / manifest.version
    folder.mkdir()
    (folder / MANIFEST).write_text(json.dumps({**manifest.model_dump(), **changes}))
    return folder


def test_a_version_is_named_by_its_number_and_its_content(tmp_path: Path) -> None:
    folder = written(tmp_path)
    manifest = read_manifest(folder)
    assert folder.name == f"000007-{manifest.digest()}"
    assert manifest.named(8).version == f"000008-{manifest.digest()}"


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({"fingerprint": "e" * 16}, "was altered"),
        ({"count": 4}, "was altered"),
        ({"count": -1}, "count: Input should be greater than or equal to 0"),
        ({"colour": "red"}, "colour: Extra inputs are not permitted"),
        (
            {"format_version": 3, "shards": []},
            "has format 3, which is newer than this program; formats up to 2 are read",
        ),
        ({"version": "000009-00000000"}, "was altered"),
    ],
)
def test_a_manifest_that_was_changed_is_damaged(tmp_path: Path, change: dict[str, object], wrong: str) -> None:
    folder = written(tmp_path, **change)
    with pytest.raises(IndexDamaged) as refused:
        read_manifest(folder)
    assert wrong in refused.value.message
    assert folder.name in refused.value.message


# As the program wrote it that knew no format but the first.
FORMAT_1 = """{"format_version":1,"version":"000007-c8a54bce","created":"2025-01-01T00:00:00+00:00","kind":"hnsw",
"metric":"cosine","dtype":"float32","embedder":"colours","fingerprint":"ffffffffffffffff","dim":48,"count":3,
"attributes":[],"build":{"preparation":"none","hnsw_m":32,"ef_construction":200},"files":{"vectors.npy":
{"sha256":"0000000000000000000000000000000000000000000000000000000000000000","bytes":1}}}"""


def test_a_manifest_of_the_first_format_is_still_read(tmp_path: Path) -> None:
    folder = tmp_path / "000007-c8a54bce"
    folder.mkdir()
    (folder / MANIFEST).write_text(FORMAT_1)
    assert (read_manifest(folder).kind, read_manifest(folder).build.kind_by_count) == ("hnsw", False)


def test_whether_the_kind_follows_the_count_is_read_back(tmp_path: Path) -> None:
    folder = written(tmp_path)
    manifest = read_manifest(folder)
    build = manifest.build.model_copy(update={"kind_by_count": True})
    changed = manifest.model_copy(update={"build": build}).named(8)
    assert changed.digest() != manifest.digest()
    (tmp_path / changed.version).mkdir()
    (tmp_path / changed.version / MANIFEST).write_text(changed.model_dump_json())
    assert read_manifest(tmp_path / changed.version).build.kind_by_count


def test_a_cut_manifest_is_damaged(tmp_path: Path) -> None:
    folder = written(tmp_path)
    (folder / MANIFEST).write_text((folder / MANIFEST).read_text()[:40])
    with pytest.raises(IndexDamaged, match="is no manifest"):
        read_manifest(folder)


def test_a_missing_manifest_is_damaged(tmp_path: Path) -> None:
    with pytest.raises(IndexDamaged, match="cannot be read"):
        read_manifest(tmp_path)
