"""Request bodies in all their forms become images and options, or typed errors."""

import base64
import io

import numpy as np
import pytest

from lookalike.errors import InvalidOption, InvalidRequest
from lookalike.rows import Row, array_in, array_reply, error_reply, images_in, options_in, search_request_in
from lookalike.schemas import SearchOptions

IMAGE = b"\xff\xd8 not decoded here"
BASE64 = base64.b64encode(IMAGE).decode()


@pytest.mark.parametrize(
    "row",
    [
        Row("r", body=IMAGE, headers={"x-lookalike-top-k": "3", "x-lookalike-box": "1, 2, 30, 40"}),
        Row("r", json={"image": BASE64, "top_k": 3, "box": [1, 2, 30, 40]}),
        Row("r", json={"image": "data:image/jpeg;base64," + BASE64, "top_k": "3", "box": [1, 2, 30, 40]}),
        Row("r", fields={"image": IMAGE, "top_k": b"3", "box": b"[1, 2, 30, 40]"}),
    ],
    ids=["raw", "json", "data-url", "multipart"],
)
def test_the_same_search_can_be_asked_in_every_form(row: Row) -> None:
    request = search_request_in(row)
    assert (request.image, request.top_k, request.box) == (IMAGE, 3, (1, 2, 30, 40))


def test_a_field_of_the_body_wins_over_a_header() -> None:
    row = Row("r", json={"image": BASE64, "top_k": 7}, headers={"x-lookalike-top-k": "3"})
    assert search_request_in(row).top_k == 7


def test_a_header_that_is_wrong_is_refused_although_the_body_wins() -> None:
    with pytest.raises(InvalidOption, match="top_k"):
        search_request_in(Row("r", json={"image": BASE64, "top_k": 7}, headers={"x-lookalike-top-k": "none"}))


@pytest.mark.parametrize(
    "options",
    [
        {"filters": {"colour": [1] * 200_000}},
        {"filters": {str(i): 1 for i in range(200_000)}},
        {str(i): 1 for i in range(200_000)},
        {"x" * 1_000_000: 1},
    ],
    ids=["values", "filters", "fields", "a long name"],
)
def test_a_flood_of_wrong_options_is_told_in_few_words(options: dict[str, object]) -> None:
    with pytest.raises(InvalidOption) as refused:
        search_request_in(Row("r", json={"image": BASE64, **options}))
    assert len(refused.value.message) < 1000


def test_filters_ride_in_a_header_as_json() -> None:
    row = Row("r", body=IMAGE, headers={"x-lookalike-filters": '{"colour": ["red", "blue"]}'})
    assert search_request_in(row).filters == {"colour": ["red", "blue"]}


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (Row("r"), "no image"),
        (Row("r", body=b""), "no image"),
        (Row("r", json=["image"]), "must be an object"),
        (Row("r", json={"image": 5}), "base64 string"),
        (Row("r", json={"image": "***"}), "not valid base64"),
        (Row("r", json={"image": ""}), "no image"),
        (Row("r", fields={"top_k": b"3"}), "no image"),
        (Row("r", fields={"image": IMAGE, "image2": IMAGE}), "2 images in one request"),
    ],
)
def test_a_body_without_one_image_says_what_is_missing(row: Row, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        search_request_in(row)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"top_k": 0}, "top_k.*greater than or equal to 1"),
        ({"top_k": 1001}, "top_k.*less than or equal to 1000"),
        ({"top_k": "many"}, "top_k.*valid integer"),
        ({"crop": "maybe"}, "crop.*'auto' or 'none'"),
        ({"box": [1, 2, 3]}, "box"),
        ({"box": [30, 2, 3, 40]}, "x1 < x2"),
        ({"filters": {"colour": "red"}}, "filters.colour.*valid list"),
        ({"min_similarity": 2}, "min_similarity"),
        ({"subjects": 11}, "subjects"),
        ({"subjects": 2, "box": [0, 0, 5, 5]}, "does not go with subjects"),
        ({"subjects": 2, "crop": "none"}, "does not go with subjects"),
        ({"topk": 3}, "topk"),
        ({"image_url": "http://example.org/a.jpg"}, "image_url is switched off"),
    ],
)
def test_a_wrong_option_is_named_with_what_is_allowed(options: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidOption, match=words) as caught:
        search_request_in(Row("r", json={"image": BASE64, **options}))
    assert caught.value.allowed


def test_options_in_headers_that_are_no_json_are_refused_by_name() -> None:
    with pytest.raises(InvalidOption, match="filters is not valid JSON"):
        options_in(Row("r", headers={"x-lookalike-filters": "{red"}), SearchOptions)


def test_several_images_come_in_the_order_of_the_request() -> None:
    row = Row("r", json={"images": [BASE64, base64.b64encode(b"second").decode()]})
    assert images_in(row, max_images=2) == [IMAGE, b"second"]


def test_arrays_survive_the_round_trip() -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert np.array_equal(array_in(array_reply(array, {}).body), array)


def test_arrays_of_python_objects_are_never_unpickled() -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(InvalidRequest, match=r"no array in \.npy format"):
        array_in(buffer.getvalue())


@pytest.mark.parametrize("cut", [0, 5, 40, 100])
def test_a_cut_array_is_an_invalid_request(cut: int) -> None:
    whole = array_reply(np.zeros((4, 4), np.uint8), {}).body
    with pytest.raises(InvalidRequest):
        array_in(whole[:cut])


def test_an_npz_is_no_array() -> None:
    buffer = io.BytesIO()
    np.savez(buffer, pixels=np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(InvalidRequest, match="archive"):
        array_in(buffer.getvalue())


def test_an_error_that_quotes_a_lone_surrogate_is_still_answered() -> None:
    reply = error_reply(InvalidOption("filters name no attribute: \ud800"), Row("r"))
    assert reply.status == 422
    assert b"no attribute: ?" in reply.body


def test_json_nested_beyond_reason_in_a_header_is_an_invalid_option() -> None:
    row = Row("r", body=IMAGE, headers={"x-lookalike-filters": "[" * 100_000})
    with pytest.raises(InvalidOption, match="filters"):
        search_request_in(row)
