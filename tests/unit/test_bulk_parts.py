"""A bulk run without Ray: the steps of its parts, what they promise together, and the index that is loaded of them."""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from lookalike.bulk import pinned_list
from lookalike.bulk.claims import Claims, spread
from lookalike.bulk.embedder import BulkOptions
from lookalike.bulk.finish import finish
from lookalike.bulk.job import _settled_plan
from lookalike.bulk.load import load_embeddings
from lookalike.bulk.output import BulkOutput, BulkPlan, Summary
from lookalike.bulk.parts import embed_part, keep_part, prepare_part
from lookalike.bulk.pinned_list import part_of_list
from lookalike.bulk.steps import Embed, keep_row, prepare_row
from lookalike.catalogue import FOLDER_LEVELS, read_catalogue
from lookalike.cli import app
from lookalike.config import ImageLimits, IndexSettings
from lookalike.delivery.store import open_store
from lookalike.errors import SetupError, StoreDamaged
from lookalike.index.edits import IndexEditor
from lookalike.index.faiss_index import FaissIndex, open_index
from lookalike.ingest import ImageEmbedder, IngestOptions
from tests.colour_embedder import ColourEmbedder, save_picture
from tests.unit.bulk_run import Telling, embedder

SETTINGS = IndexSettings(kind="flat")


class BlindColours(ColourEmbedder):
    """Finds nothing in an image whose first field is black."""

    def embed(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        return super().embed(pixels) * (pixels[:, 0, 0].sum(axis=-1) > 0)[:, None]


def shop(folder: Path, count: int = 20) -> Path:
    """Write pictures in two folders; three items share one image, two are the same broken file."""
    for number in range(count):
        save_picture(folder / f"{'ab'[number % 2]}/{number:02d}.png", number)
    for name in ("a/90.png", "b/99.png"):
        (folder / name).write_bytes((folder / "a/04.png").read_bytes())
    for name in ("a/91.jpg", "b/91.jpg"):
        (folder / name).write_bytes(b"no image")
    (folder / "a/00.txt").write_text("The first one.\n")
    (folder / "notes.md").write_text("-")
    return folder


@pytest.fixture
def output(tmp_path: Path) -> BulkOutput:
    return BulkOutput(open_store(str(tmp_path / "out")))


def plan_of(source: Path | str, output: BulkOutput, part_items: int = 5) -> BulkPlan:
    options = BulkOptions(part_items=part_items)
    return _settled_plan(str(source), FOLDER_LEVELS, output, embedder(Telling(Path("told"), 0)), options)


def embed_parts(
    output: BulkOutput,
    plan: BulkPlan,
    parts: Iterable[int],
    claim: Callable[[int, Sequence[bytes]], list[bool]] | None = None,
    made_by: ImageEmbedder | None = None,
) -> None:
    made_by, claim = made_by or ColourEmbedder(), claim or Claims().claim
    for part in parts:
        items = part_of_list(output.store, part)
        made = prepare_part(part, part * plan.part_items, items, made_by.prepare, claim, ImageLimits(), 2)
        keep_part(embed_part(made, made_by, 2), output)


def whole_run(source: Path | str, output: BulkOutput, part_items: int = 5) -> Summary:
    plan = plan_of(source, output, part_items)
    embed_parts(output, plan, range(plan.parts))
    summary = finish(output, plan)
    assert summary is not None
    return summary


def alone(source: Path, tmp_path: Path) -> FaissIndex:
    """Return the index that one machine makes of a source."""
    IndexEditor(tmp_path / "alone", SETTINGS, IngestOptions()).build(read_catalogue(source), ColourEmbedder())
    return open_index(tmp_path / "alone")


def assert_same(index_dir: Path, expected: FaissIndex) -> None:
    index = open_index(index_dir)
    assert index.items.records() == expected.items.records()
    assert index.manifest.build == expected.manifest.build
    vectors = [np.load(next(path.glob("versions/*/vectors.npy"))) for path in (index_dir, index_dir.parent / "alone")]
    np.testing.assert_allclose(*vectors, atol=1e-6)


def test_the_index_that_is_loaded_is_that_of_one_machine(tmp_path: Path, output: BulkOutput) -> None:
    source = shop(tmp_path / "shop")
    summary = whole_run(source, output)
    assert summary == Summary(items=22, embeddings=20, duplicates=2, unreadable=2, ignored_files=2)
    edit = load_embeddings(output, tmp_path / "index", SETTINGS, "skip")
    assert_same(tmp_path / "index", alone(source, tmp_path))
    assert (edit.count("duplicate"), edit.count("unreadable"), edit.ignored_files) == (2, 2, 2)
    again = load_embeddings(output, tmp_path / "index", SETTINGS, "skip")
    assert not again.published


def test_problems_are_listed_with_their_reason(tmp_path: Path, output: BulkOutput) -> None:
    whole_run(shop(tmp_path / "shop"), output, part_items=3)
    problems = [json.loads(line) for line in output.store.read("problems.jsonl").splitlines()]
    assert {(problem["kind"], problem["item_id"]) for problem in problems} == {
        ("unreadable", "a/91.jpg"),
        ("unreadable", "b/91.jpg"),
    }
    assert all(problem["reason"].startswith("unsupported_image: ") for problem in problems)


def test_an_image_of_several_parts_is_embedded_by_one(tmp_path: Path, output: BulkOutput) -> None:
    whole_run(shop(tmp_path / "shop"), output, part_items=1)
    folder = Path(output.store.url) / "embeddings"
    keys = [key for path in folder.iterdir() for key in pq.read_table(path)["content_sha256"].to_pylist()]
    assert len(keys) == len(set(keys)) == 20


def test_an_embedder_that_finds_nothing_fails_all_items_of_the_image(tmp_path: Path, output: BulkOutput) -> None:
    black = np.full((4, 4, 3), 200, dtype=np.uint8)
    black[0, 0] = 0
    source = shop(tmp_path / "shop")
    from PIL import Image

    for name in ("a/black.png", "b/black.png"):
        Image.fromarray(black).save(source / name)
    plan = plan_of(source, output, 4)
    embed_parts(output, plan, range(plan.parts), made_by=BlindColours())
    summary = finish(output, plan)
    assert summary is not None and (summary.items, summary.unreadable) == (22, 4)
    told = output.store.read("problems.jsonl").decode()
    assert told.count("finds nothing in it") == 2
    load_embeddings(output, tmp_path / "index", SETTINGS, "keep")
    assert open_index(tmp_path / "index").info.count == 22


def test_a_run_that_is_not_finished_is_not_loaded(tmp_path: Path, output: BulkOutput) -> None:
    plan = plan_of(shop(tmp_path / "shop"), output)
    embed_parts(output, plan, range(plan.parts - 1))
    with pytest.raises(SetupError, match="holds no finished run"):
        load_embeddings(output, tmp_path / "index", SETTINGS, "skip")
    assert not (tmp_path / "index").exists()


def test_parts_that_do_not_fit_are_made_again(tmp_path: Path, output: BulkOutput) -> None:
    """A run that was killed may write once more: each of its parts is sound, together they are not."""
    source = shop(tmp_path / "shop")
    plan = plan_of(source, output)
    embed_parts(output, plan, range(plan.parts))
    embed_parts(output, plan, [plan.parts - 1])  # it knows of no other part, and embeds what one has already
    assert finish(output, plan) is None
    assert plan.parts - 1 not in output.finished()
    nobody = lambda part, keys: [False] * len(keys)  # noqa: E731
    embed_parts(output, plan, [plan.parts - 1], nobody)  # believes that others embed all of it
    assert finish(output, plan) is None
    assert plan.parts - 1 not in output.finished() and len(output.finished()) == plan.parts - 1


def test_a_damaged_part_is_made_again(tmp_path: Path, output: BulkOutput) -> None:
    plan = plan_of(shop(tmp_path / "shop"), output)
    embed_parts(output, plan, range(plan.parts))
    for name in ("embeddings/part-0000001.parquet", "items/part-0000002.parquet"):
        output.store.put(name, output.store.read(name)[:-9])
    assert finish(output, plan) is None
    # Part 1 and 2; and what shares an image with them needs nothing.
    assert set(range(plan.parts)) - output.finished() >= {1, 2}


def test_an_altered_output_is_refused_by_name(tmp_path: Path, output: BulkOutput) -> None:
    whole_run(shop(tmp_path / "shop"), output)
    output.store.remove("embeddings/part-0000001.parquet")
    with pytest.raises(StoreDamaged, match=r"embeddings/part-0000001\.parquet cannot be read"):
        load_embeddings(output, tmp_path / "index", SETTINGS, "skip")
    output.store.put("plan.json", b"{}")
    with pytest.raises(StoreDamaged, match=r"plan\.json cannot be read"):
        output.plan()


def test_claims_stay_with_the_part_that_asked_first() -> None:
    claims = Claims()
    assert claims.claim(1, [b"x", b"y"]) == [True, True]
    assert claims.claim(2, [b"y", b"z"]) == [False, True]
    assert claims.claim(1, [b"x", b"y", b"z"]) == [True, True, False]
    keys = [bytes([n, 1, 2, n]) for n in range(40)]
    assert set(spread(keys, 3)) == {0, 1, 2} and spread(keys, 1) == [0] * 40


def test_a_run_goes_on_with_the_list_that_it_began_with(tmp_path: Path, output: BulkOutput) -> None:
    source = shop(tmp_path / "shop")
    plan = plan_of(source, output)
    save_picture(source / "a/new.png", 77)
    assert plan_of(source, output) == plan
    with pytest.raises(SetupError, match="begun with something else: part_items is 6 instead of 5"):
        plan_of(source, output, 6)
    with pytest.raises(SetupError, match="source is"):
        plan_of(tmp_path, output)


def parquet_list(folder: Path, count: int = 12) -> Path:
    """Write pictures and a Parquet file with attributes of several types."""
    rows = [
        {"item_id": f"id {n}", "path": save_picture(folder / f"{n}.png", n).name, "price": n / 2, "new": n % 2 == 0}
        | {"title": None if n % 3 else f"Number {n}", "colour": "red"}
        for n in range(count)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "list.parquet")
    return folder / "list.parquet"


def test_a_parquet_list_is_read_on_one_machine_as_in_bulk(tmp_path: Path, output: BulkOutput) -> None:
    table = parquet_list(tmp_path / "shop")
    first = read_catalogue(table).items[0]
    assert (first.item_id, first.title) == ("id 0", "Number 0")
    assert first.attributes == {"price": "0.0", "new": "true", "colour": "red"}
    whole_run(table, output)
    load_embeddings(output, tmp_path / "index", SETTINGS, "skip")
    assert_same(tmp_path / "index", alone(table, tmp_path))


def test_a_folder_of_parquet_files_is_one_list(tmp_path: Path) -> None:
    whole = pq.read_table(parquet_list(tmp_path / "shop"))
    (tmp_path / "shop/parts.parquet").mkdir()
    for start in (0, 6):
        pq.write_table(whole.slice(start, 6), tmp_path / f"shop/parts.parquet/{start}.parquet")
    items = read_catalogue(tmp_path / "shop/parts.parquet").items
    assert [item.item_id for item in items] == [f"id {n}" for n in range(12)]


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([{"item_id": "1", "path": "1.png"}] * 2, "item_id '1' is given twice"),
        ([{"item_id": "1"}], "lacks the columns: path"),
        ([{"item_id": "1", "path": None}], "list.parquet:1: path is missing or empty"),
        ([{"item_id": "1", "path": "1.png", "sizes": [1, 2]}], "list.parquet:1: sizes is a list"),
        ([], "lacks the columns: path, item_id"),
    ],
)
def test_a_bad_list_is_refused_before_anything_is_embedded(
    tmp_path: Path, output: BulkOutput, rows: list[dict[str, object]], told: str
) -> None:
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "list.parquet")
    with pytest.raises(SetupError, match=told):
        plan_of(tmp_path / "list.parquet", output)
    assert output.plan() is None


def test_what_is_no_parquet_is_refused(tmp_path: Path, output: BulkOutput) -> None:
    (tmp_path / "list.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(SetupError, match="is no Parquet file that can be read"):
        plan_of(tmp_path / "list.parquet", output)
    with pytest.raises(SetupError, match="holds no image"):
        (tmp_path / "empty").mkdir()
        plan_of(tmp_path / "empty", output)


def test_a_list_longer_than_a_file_goes_on_in_the_next(
    tmp_path: Path, output: BulkOutput, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pinned_list, "PARTS_A_FILE", 2)
    source = shop(tmp_path / "shop")
    plan = plan_of(source, output)
    assert len(output.store.names("catalogue")) == 3
    found = [item for part in range(plan.parts) for item in part_of_list(output.store, part)]
    assert found == read_catalogue(source).items


def test_a_store_that_is_down_ends_the_run_in_its_own_words_and_is_no_fault_of_the_images(
    tmp_path: Path, output: BulkOutput, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "list.csv").write_text("item_id,path\none,s3://bucket-that-is-down-too/1.png\n")
    plan = plan_of(tmp_path / "list.csv", output)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("LOOKALIKE_STORE_RETRY_S", "0")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
    colours, options = embedder(Telling(tmp_path / "told", 0)), BulkOptions()
    url = output.store.url
    row = prepare_row({"part": 0}, url, plan, colours, options, Claims().claim)
    (embedded,) = Embed(colours, options, url)({"prepared": [row["prepared"]]})["embedded"]
    kept = keep_row({"embedded": embedded}, url)
    assert kept["items"] == 0 and "the store cannot be reached" in kept["error"]
    assert output.finished() == set()


def test_the_commands_tell_what_is_wrong_in_one_line(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["index", "load", str(tmp_path / "nothing"), "--index-dir", str(tmp_path / "i")])
    assert isinstance(done.exception, SetupError) and "holds no finished run" in done.exception.message
    done = CliRunner().invoke(app, ["embed", str(tmp_path), str(tmp_path / "out"), "--model", str(tmp_path / "no")])
    assert isinstance(done.exception, SetupError)
