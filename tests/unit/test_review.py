"""The review: cases from tasks, predictions and tables, its journal, what it writes back, and who it answers."""

import csv
import json
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from lookalike.errors import SetupError
from lookalike.image_embedder import WholeImageEmbedder
from lookalike.labels.lists import images_to_label, read_names, training_examples
from lookalike.labels.prediction import Predicted, Prediction, write_predictions
from lookalike.labels.task import read_task
from lookalike.review.app import Review
from lookalike.review.cases import Source
from lookalike.review.commands import open_source
from lookalike.review.journal import Decision, Journal
from lookalike.review.label_source import PredictionSource, TaskSource
from lookalike.review.looks import Looks
from lookalike.review.table_source import TableSource
from tests.label_samples import colour_embedder, save_image, write_task

train = pytest.importorskip("training.labels.train", reason="training needs the extra lookalike[train]")
ROOT = Path(__file__).parents[2]
KEEP, WEED, CLEAR = (Decision(action=action) for action in ("keep", "weed", "clear"))
RED, BLUE = (Decision(action="label", label=label) for label in ("red", "blue"))


@pytest.fixture
def task_file(tmp_path: Path) -> Path:
    """A trained task of two colours, with one red image in the list of the blue ones."""
    file = write_task(tmp_path / "task")
    task = read_task(file)
    wrong = "wrong.png"
    save_image(task.imgroot / wrong, "red", seed=99)
    blue = next(entry.path for entry in task.training if entry.label == "blue")
    blue.write_text(blue.read_text() + f"{wrong}\n")
    trained = train.train_task(read_task(file), colour_embedder(), None)
    train.write_trained(trained, task, tmp_path / "trained")
    return file


@pytest.fixture
def source(task_file: Path, tmp_path: Path) -> TaskSource:
    return TaskSource(tmp_path / "trained")


def labels_of(task_file: Path) -> dict[str, str]:
    return {example.name: example.label for example in training_examples(read_task(task_file))}


def colours() -> WholeImageEmbedder:
    return WholeImageEmbedder("colours", colour_embedder())


def export(source: Source, decisions: dict[str, Decision]) -> list[Path]:
    return source.export(decisions, decisions.keys())


def write_table(folder: Path, rows: list[dict[str, str]]) -> Path:
    file = folder / "table.csv"
    with file.open("w", newline="") as opened:
        writer = csv.DictWriter(opened, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return file


def test_the_image_in_the_wrong_list_comes_first(source: TaskSource) -> None:
    first = source.cases[0]
    assert (first.name, first.label, first.guess) == ("wrong.png", "blue", "red")
    assert first.why in ("disagrees", "unsure")
    assert [case.support for case in source.cases] == sorted(case.support for case in source.cases)


def test_a_relabelled_image_is_trained_on_under_its_new_label_and_a_weeded_one_is_not(
    source: TaskSource, task_file: Path
) -> None:
    before = labels_of(task_file)
    weeded = next(name for name, label in before.items() if label == "red")
    kept = next(case.name for case in source.cases if case.name not in ("wrong.png", weeded))
    changed = export(source, {"wrong.png": RED, weeded: WEED, kept: KEEP})
    assert labels_of(task_file) == {name: label for name, label in before.items() if name != weeded} | {
        "wrong.png": "red"
    }
    for file in changed:
        backup = file.with_name(file.name + ".before-review")
        assert [name for _, name in read_names(backup)] != [name for _, name in read_names(file)]
    assert export(source, {"wrong.png": RED, weeded: WEED}) == []  # what is written is written


def test_taking_a_decision_back_after_it_was_written_brings_the_image_back(source: TaskSource, task_file: Path) -> None:
    before = labels_of(task_file)
    export(source, {"wrong.png": WEED})
    assert "wrong.png" not in labels_of(task_file)
    source.export({}, {"wrong.png"})
    assert labels_of(task_file) == before


def test_a_task_that_is_not_trained_is_told_with_what_helps(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"labels\.json|examples\.json"):
        open_source("nothing", tmp_path, tmp_path, None, TableSource)


def test_predictions_move_to_the_list_of_the_decided_label(tmp_path: Path) -> None:
    for number, label in enumerate(("red", "blue", "red")):
        save_image(tmp_path / f"photos/{number}.png", label, seed=number)
    predictions = [
        Prediction("0.png", "red", 0.99, True, {"red": 0.99, "blue": 0.01}),
        Prediction("1.png", "red", 0.60, False, {"red": 0.60, "blue": 0.40}),
        Prediction("2.png", "red", 0.70, False, {"red": 0.70, "blue": 0.30}),
    ]
    *_, written = write_predictions(Predicted(predictions, []), ["red", "blue"], tmp_path / "new")
    source = PredictionSource(written, tmp_path / "photos")
    assert [case.name for case in source.cases] == ["1.png", "2.png", "0.png"]
    export(source, {"1.png": BLUE, "0.png": WEED})
    lists = {label: [n for _, n in read_names(tmp_path / f"new.{label}")] for label in ("red", "blue", "inconclusive")}
    assert lists == {"red": [], "blue": ["1.png"], "inconclusive": ["2.png"]}
    assert [example.path for example in images_to_label(tmp_path / "new.blue", tmp_path / "photos")] == [
        tmp_path / "photos/1.png"
    ]


def test_a_table_keeps_its_other_columns_and_loses_weeded_rows(tmp_path: Path) -> None:
    rows = [
        {"file": "a.png", "type": "shirt", "price": "1,5", "predicted": "shirt", "confidence": "0.9"},
        {"file": "b.png", "type": "shirt", "price": "2", "predicted": "shoe", "confidence": "0.8"},
        {"file": "c.png", "type": "shoe", "price": "3", "predicted": "", "confidence": ""},
    ]
    file = write_table(tmp_path, rows)
    source = TableSource(file, tmp_path, "file", "type")
    assert [(case.name, case.why) for case in source.cases] == [
        ("b.png", "disagrees"),
        ("a.png", "agrees"),
        ("c.png", "not scored"),
    ]
    assert export(source, {"a.png": KEEP}) == []
    export(source, {"b.png": Decision(action="label", label="shoe"), "c.png": WEED})
    with file.open(newline="") as opened:
        assert list(csv.DictReader(opened)) == [rows[0], rows[1] | {"type": "shoe"}]
    later = TableSource(file, tmp_path, "file", "type")
    assert {case.name: case.label for case in later.cases} == {row["file"]: row["type"] for row in rows}
    later.export({}, {"b.png", "c.png"})  # both were undone
    with file.open(newline="") as opened:
        assert list(csv.DictReader(opened)) == rows


def test_of_a_table_with_guesses_their_rows_alone_may_be_looked_at(tmp_path: Path) -> None:
    rows = [
        {"file": "a", "type": "shirt", "predicted": "", "confidence": ""},
        {"file": "b", "type": "shirt", "predicted": "shoe", "confidence": "0.8"},
    ]
    file = write_table(tmp_path, rows)
    source = TableSource(file, tmp_path, "file", "type", image_suffix=".jpg", guessed=True)
    assert [(case.name, case.path.name) for case in source.cases] == [("b", "b.jpg")]
    export(source, {"b": WEED})
    with file.open(newline="") as opened:
        assert list(csv.DictReader(opened)) == rows[:1]


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([{"file": "a.png"}], "no column type"),
        ([{"file": "a.png", "type": "x"}, {"file": "a.png", "type": "y"}], r"csv:3 names a\.png, as line 2 does"),
        ([{"file": "a.png", "type": "x", "confidence": "much"}], "csv:2: confidence is 'much'"),
    ],
)
def test_a_table_that_cannot_be_reviewed_is_told_by_line(tmp_path: Path, rows: list[dict[str, str]], told: str) -> None:
    with pytest.raises(SetupError, match=told):
        TableSource(write_table(tmp_path, rows), tmp_path, "file", "type")


def test_a_journal_goes_on_where_it_ended_and_every_step_can_be_undone(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "review.jsonl")
    journal.decide(["a", "b"], RED)
    journal.decide(["b"], WEED)
    assert journal.undo()
    assert Journal(tmp_path / "review.jsonl").decisions() == {"a": RED, "b": RED}
    again = Journal(tmp_path / "review.jsonl")
    assert again.redo()
    assert not again.redo()
    assert again.decisions() == {"a": RED, "b": WEED}
    again.decide(["a"], CLEAR)
    assert again.touched() == {"a", "b"}
    assert again.decisions() == {"b": WEED}
    assert [again.undo() for _ in range(4)] == [True, True, True, False]
    assert again.decisions() == {}


def test_a_line_that_a_crash_cut_off_is_dropped_and_a_foreign_one_is_named(tmp_path: Path) -> None:
    file = tmp_path / "review.jsonl"
    Journal(file).decide(["a"], KEEP)
    whole = file.read_bytes()
    file.write_bytes(whole + whole[:20])
    journal = Journal(file)
    assert journal.decisions() == {"a": KEEP}
    journal.decide(["b"], WEED)
    assert Journal(file).decisions() == {"a": KEEP, "b": WEED}
    file.write_bytes(b'{"move": "do"}\n')
    with pytest.raises(SetupError, match=r"review\.jsonl:1 is no step of a review"):
        Journal(file)


@pytest.fixture
def client(source: TaskSource, tmp_path: Path) -> TestClient:
    looks = Looks([case.path for case in source.cases], colours, tmp_path / "cache")
    return TestClient(Review(source, looks).app(ROOT / "web"), base_url="http://127.0.0.1:8091")


def decide(client: TestClient, cases: list[int], **decision: str) -> dict[str, object]:
    answer = client.post("/decisions", json={"cases": cases, "decision": decision})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_a_whole_review_over_http(client: TestClient, task_file: Path) -> None:
    told = client.get("/cases").json()
    assert told["labels"] == ["red", "blue"]
    assert told["cases"][0]["name"] == "wrong.png"
    assert client.get("/cases/0/picture").content.startswith(b"\xff\xd8")
    assert decide(client, [0, 1], action="weed").keys() == {"0", "1"}
    assert client.post("/undo").json() == {}
    assert client.post("/redo").json().keys() == {"0", "1"}
    assert decide(client, [0], action="label", label="red")["0"] == {"action": "label", "label": "red"}
    assert decide(client, [1], action="clear").keys() == {"0"}
    assert len(client.post("/export").json()["changed"]) == 2
    assert labels_of(task_file)["wrong.png"] == "red"
    assert "Review" in client.get("/").text


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        (b"{", 400, "JSON"),
        (json.dumps({"cases": [0], "decision": {"action": "burn"}}).encode(), 400, "action"),
        (json.dumps({"cases": [0], "decision": {"action": "label", "label": "green"}}).encode(), 400, "green"),
        (json.dumps({"cases": [999], "decision": {"action": "weed"}}).encode(), 404, "no case 999"),
        (json.dumps({"cases": [-1], "decision": {"action": "weed"}}).encode(), 404, "no case -1"),
    ],
)
def test_a_wrong_decision_is_refused_and_decides_nothing(
    client: TestClient, body: bytes, status: int, told: str
) -> None:
    answer = client.post("/decisions", content=body)
    assert answer.status_code == status
    assert told in answer.json()["error"]["message"]
    assert client.get("/decisions").json() == {}


def test_an_image_that_is_gone_or_damaged_is_an_error_of_its_own(client: TestClient, task_file: Path) -> None:
    imgroot = read_task(task_file).imgroot
    names = [case["name"] for case in client.get("/cases").json()["cases"]]
    (imgroot / names[0]).unlink()
    (imgroot / names[1]).write_bytes(b"\x89PNG nothing")
    assert client.get("/cases/0/picture").status_code == 404
    assert client.get("/cases/1/picture").status_code in (415, 422)
    assert client.get("/cases/2/picture").status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example:8091"},  # a name that resolves to this machine
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9999"},
    ],
)
def test_pages_of_others_are_refused(client: TestClient, headers: dict[str, str]) -> None:
    body = {"cases": [0], "decision": {"action": "weed"}}
    assert client.post("/decisions", json=body, headers=headers).status_code == 403
    assert client.get("/cases", headers=headers).status_code == 403
    own = client.post("/decisions", json=body, headers={"origin": "http://127.0.0.1:8091"})
    assert own.status_code == 200
    assert "default-src 'none'" in own.headers["content-security-policy"]


def test_looks_over_http(client: TestClient) -> None:
    count = len(client.get("/cases").json()["cases"])
    assert client.get("/looks").json() == {"embedded": 0, "of": count}
    groups = client.get("/looks/near-duplicates", params={"similarity": 0.9}).json()["groups"]
    assert sorted(number for group in groups for number in group) == list(range(count))
    assert client.get("/looks").json() == {"embedded": count, "of": count}
    assert sorted(client.get("/looks/dimensions/1").json()["order"]) == list(range(count))
    assert client.get("/looks/dimensions/99").status_code == 422
    for wrong in ("nan", "2", "-1", "much"):
        assert client.get("/looks/near-duplicates", params={"similarity": wrong}).status_code == 422
