"""Two systems answer alike, or the comparison says what differs."""

import copy
import json

import pytest

from benchmarks.peers.answers import check_answers, crops_alike, differences
from benchmarks.peers.errors import AnswersDiffer
from benchmarks.peers.load import Reply


@pytest.fixture
def answer():
    return {
        "subject": {"box": [10.4, 20.4, 110.6, 220.6], "source": "detector"},
        "attributes": [{"name": "season", "label": "summer", "score": 0.9, "sure": True}],
        "hits": [{"item_id": "a", "similarity": 0.9}, {"item_id": "b", "similarity": 0.5}],
    }


@pytest.fixture
def other(answer):
    return copy.deepcopy(answer)


def test_an_answer_equals_itself(answer, other):
    assert differences(answer, other) == []


def test_what_no_tolerance_is_exceeded_by_is_alike(answer, other):
    other["subject"]["box"][2] += 0.99
    other["hits"][1]["similarity"] -= 0.0009
    other["attributes"][0]["score"] = 0.7
    assert differences(answer, other) == []


def test_a_box_more_than_a_pixel_away_is_told(answer, other):
    other["subject"]["box"][2] += 1.01
    assert differences(answer, other) == [
        "the subject's box is [10.4, 20.4, 111.61, 220.6], not [10.4, 20.4, 110.6, 220.6]"
    ]


def test_other_hits_are_told(answer, other):
    other["hits"].reverse()
    assert differences(answer, other) == ["the hits are ['b', 'a'], not ['a', 'b']"]


def test_missing_hits_are_told(answer, other):
    del other["hits"][1]
    assert differences(answer, other) == ["the hits are ['a'], not ['a', 'b']"]


def test_another_similarity_is_told(answer, other):
    other["hits"][1]["similarity"] = 0.502
    assert differences(answer, other) == ["the similarity of b is 0.502, not 0.5"]


def test_another_label_is_told(answer, other):
    other["attributes"][0]["label"] = "winter"
    assert differences(answer, other) == ["the attributes are {'season': 'winter'}, not {'season': 'summer'}"]


def test_an_answer_without_attributes_is_no_description(answer, other):
    del other["attributes"]
    assert differences(answer, other) == ["the attributes are {}, not {'season': 'summer'}"]


def test_all_that_differs_is_told_at_once(answer, other):
    other["subject"]["box"][0], other["hits"], other["attributes"] = 0, [], []
    assert len(differences(answer, other)) == 3


def test_where_rounding_may_have_moved_the_crop_by_a_pixel_only_the_box_is_compared(answer, other):
    answer["subject"]["box"][0] = 9.97
    assert not crops_alike(answer)
    other["subject"]["box"][0], other["hits"] = 9.97, []
    assert differences(answer, other) == []
    other["subject"]["box"][0] = 12
    assert len(differences(answer, other)) == 1


def test_the_whole_image_has_whole_edges_and_no_rounding(answer):
    answer["subject"] = {"box": [0, 0, 640, 480], "source": "whole_image"}
    assert crops_alike(answer)


def test_every_reply_is_compared_with_the_answer_to_its_own_photo(answer, other):
    other["hits"][0]["item_id"] = "c"
    expected = {0: answer, 1: other}
    replies = [Reply(photo, 1.0, json.dumps(expected[photo]).encode()) for photo in (1, 0, 1)]
    check_answers("peer", expected, replies)
    wrong = Reply(1, 1.0, json.dumps(answer).encode())
    with pytest.raises(
        AnswersDiffer, match=r"peer does not answer photo 1 as Lookalike does: the hits are \['a', 'b'\]"
    ):
        check_answers("peer", expected, [*replies, wrong])


def test_photos_of_which_none_can_be_compared_in_full_are_refused(answer):
    answer["subject"]["box"] = [10, 20, 110, 220]
    with pytest.raises(AnswersDiffer, match="edge of a pixel"):
        check_answers("peer", {0: answer}, [Reply(0, 1.0, json.dumps(answer).encode())])
