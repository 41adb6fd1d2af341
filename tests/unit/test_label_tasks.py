"""A task file and its lists are read as their owner wrote them; what is wrong is named by file and line."""

import dataclasses
import logging
from pathlib import Path

import pytest

from lookalike.errors import SetupError
from lookalike.labels.lists import evaluation_examples, images_to_label, training_examples
from lookalike.labels.task import LabelTask, read_task
from tests.label_samples import write_task


def skipping(task: LabelTask) -> LabelTask:
    return dataclasses.replace(task, settings=task.settings.model_copy(update={"bad_input": "skip"}))


def test_labels_keep_the_order_of_the_file_and_may_have_several_lists(tmp_path):
    file = write_task(tmp_path)
    file.write_text("training_data:\n- red: [lists/red, lists/red.val]\n- blue: lists/blue\n")
    task = read_task(file)
    assert task.labels == ("red", "blue")
    assert [entry.path.name for entry in task.training] == ["red", "red.val", "blue"]


def test_the_keys_of_the_old_tool_are_noted_and_ignored(tmp_path):
    task = read_task(write_task(tmp_path, more="model_file: colours.h5\nport: 8001\n"))
    assert [note.split(": ")[1].split()[0] for note in task.notes] == ["port", "model_file"]


def test_lists_named_val_are_for_evaluation(tmp_path):
    task = read_task(write_task(tmp_path))
    training = training_examples(task)
    assert len(training) == 16
    assert [example.name for example in evaluation_examples(task, training)] == [
        "red/8.png",
        "red/9.png",
        "blue/8.png",
        "blue/9.png",
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("training_data:\n- red: lists/red\n", "names 1 labels"),
        ("training_data:\n- red: lists/red\n- blue:\n", "colours.yaml:3: label 'blue' has no list"),
        ("training_data:\n- red: [lists/red]\n- inconclusive: [lists/blue]\n", "colours.yaml:3: 'inconclusive'"),
        ("training_data: {red: lists/red}\n", "colours.yaml:1: training_data is missing or no list"),
        ("training_data:\n- red: a\n- blue: b\nepochs: 3\n", "colours.yaml:4: epochs"),
        ("training_data:\n- red: a\n- blue: b\nthreshold: 2\n", "colours.yaml:4: threshold"),
        ("training_data:\n- red: a\n- blue: b\nevaluation_data:\n- green: c\n", "colours.yaml:5: label 'green'"),
        ("training_data: [\n", "is not YAML"),
    ],
)
def test_a_wrong_task_file_names_its_line(tmp_path, text, words):
    file = tmp_path / "colours.yaml"
    file.write_text(text)
    with pytest.raises(SetupError, match=words.replace("(", r"\(")):
        read_task(file)


def test_a_task_must_be_able_to_name_an_endpoint(tmp_path):
    file = write_task(tmp_path).rename(tmp_path / "My Task.yaml")
    with pytest.raises(SetupError, match="'My Task' cannot name an endpoint"):
        read_task(file)


def test_a_missing_image_names_its_list_and_line(tmp_path):
    task = read_task(write_task(tmp_path))
    (tmp_path / "imgroot/red/2.png").unlink()
    with pytest.raises(SetupError, match=r"lists/red:3: there is no image .*red/2\.png"):
        training_examples(task)


def test_a_run_goes_on_without_what_is_wrong_when_asked_to(tmp_path, caplog):
    task = skipping(read_task(write_task(tmp_path)))
    (tmp_path / "imgroot/red/2.png").unlink()
    with caplog.at_level(logging.WARNING):
        assert len(training_examples(task)) == 15
    assert "lists/red:3" in caplog.text


def test_an_image_under_two_labels_is_trained_on_under_neither(tmp_path):
    file = write_task(tmp_path)
    with (tmp_path / "lists/blue").open("a") as blue:
        blue.write("red/0.png\n")
    with pytest.raises(SetupError, match=r"lists/blue:9: red/0.png is 'blue' here and 'red' in .*lists/red:1"):
        training_examples(read_task(file))
    names = {example.name for example in training_examples(skipping(read_task(file)))}
    assert "red/0.png" not in names
    assert len(names) == 15


def test_an_image_that_is_listed_twice_counts_once(tmp_path):
    file = write_task(tmp_path)
    with (tmp_path / "lists/red").open("a") as red:
        red.write("red/0.png\n\n")
    assert len(training_examples(read_task(file))) == 16


def test_a_missing_list_and_an_empty_label_name_the_task_file(tmp_path):
    task = read_task(write_task(tmp_path))
    (tmp_path / "lists/blue").unlink()
    with pytest.raises(SetupError, match=r"colours\.yaml:5: label 'blue': there is no list"):
        training_examples(task)
    (tmp_path / "lists/blue").write_text("\n")
    with pytest.raises(SetupError, match=r"colours\.yaml:5: label 'blue' has no image"):
        training_examples(task)
    with pytest.raises(SetupError, match="fewer than two labels have images"):
        training_examples(skipping(task))


def test_what_is_trained_on_is_not_measured_on(tmp_path):
    file = write_task(tmp_path)
    with (tmp_path / "lists/red.val").open("a") as held_out:
        held_out.write("red/0.png\n")
    task = read_task(file)
    with pytest.raises(SetupError, match=r"red.val:3: red/0.png is trained on: .*lists/red:1"):
        evaluation_examples(task, training_examples(task))
    assert len(evaluation_examples(skipping(task), training_examples(task))) == 4


def test_images_to_label_come_from_a_list_or_a_folder(tmp_path):
    write_task(tmp_path, images=1)
    listed = images_to_label(tmp_path / "lists/red", tmp_path / "imgroot")
    assert [(image.name, image.path.is_file()) for image in listed] == [("red/0.png", True)]
    assert len(images_to_label(tmp_path / "imgroot", Path())) == 6
    with pytest.raises(SetupError, match="there is no image in"):
        images_to_label(tmp_path / "lists", Path())
