"""Tells whether two systems answer a search alike: only then can their times be compared."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.peers.errors import AnswersDiffer
from benchmarks.peers.load import Reply

BOX_PX = 1.0
SIMILARITY = 1e-3
# Boxes are rounded when they cross a hop, and a crop is rounded outward to whole pixels: with an edge so near to a
# whole number two crops of the same box may differ by a row of pixels, and their hits with them.
ROUNDED_PX = 0.05

Answer = Mapping[str, Any]


def check_answers(system: str, expected: Mapping[int, Answer], replies: Sequence[Reply]) -> None:
    """Compare every reply with the expected answer to its photo.

    Raises:
        AnswersDiffer: naming the system, the photo and all that differs, or when no photo can be compared in full.
    """
    if not any(crops_alike(answer) for answer in expected.values()):
        raise AnswersDiffer("every photo's box lies on the edge of a pixel: hits cannot be compared")
    for reply in replies:
        if found := differences(expected[reply.photo], reply.answer()):
            raise AnswersDiffer(f"{system} does not answer photo {reply.photo} as Lookalike does: {'; '.join(found)}")


def differences(expected: Answer, found: Answer) -> list[str]:
    """Return what differs of the subject and, where both must have searched the same pixels, of hits and attributes."""
    told = []
    box, other_box = expected["subject"]["box"], found["subject"]["box"]
    if any(abs(one - other) > BOX_PX for one, other in zip(box, other_box, strict=True)):
        told.append(f"the subject's box is {other_box}, not {box}")
    if not crops_alike(expected):
        return told
    labels, other_labels = _labels(expected), _labels(found)
    if labels != other_labels:
        told.append(f"the attributes are {other_labels}, not {labels}")
    return told + _hit_differences(expected["hits"], found["hits"])


def crops_alike(answer: Answer) -> bool:
    """Tell whether rounding cannot have changed which pixels the subject's box holds."""
    subject = answer["subject"]
    return subject["source"] == "whole_image" or all(abs(edge - round(edge)) > ROUNDED_PX for edge in subject["box"])


def _hit_differences(expected: Sequence[Answer], found: Sequence[Answer]) -> list[str]:
    ids, other_ids = [hit["item_id"] for hit in expected], [hit["item_id"] for hit in found]
    if ids != other_ids:
        return [f"the hits are {other_ids}, not {ids}"]
    return [
        f"the similarity of {one['item_id']} is {other['similarity']}, not {one['similarity']}"
        for one, other in zip(expected, found, strict=True)
        if abs(one["similarity"] - other["similarity"]) > SIMILARITY
    ]


def _labels(answer: Answer) -> dict[str, str]:
    return {attribute["name"]: attribute["label"] for attribute in answer.get("attributes") or []}
