"""The closed loop sends every photo in its turn, from as many connections as it has clients, and fails aloud."""

import socket
from collections import Counter

import pytest

from benchmarks.peers.errors import PeerFailed
from benchmarks.peers.load import Endpoint, closed_loop
from tests.unit.peers_server import TableSystem, answer_to

PHOTOS = [b"one", b"two", b"three"]


def test_every_photo_is_sent_in_its_turn_over_one_connection_a_client():
    system = TableSystem("peer", waits_for=2)  # else a quick client may send all before the other begins
    with system.serving(PHOTOS[0]) as endpoint:
        loop = closed_loop(endpoint, PHOTOS, clients=2, searches=7)
    assert Counter(system.photos) == {b"one": 3, b"two": 2, b"three": 2}
    assert system.connections == 2
    assert [reply.answer() == answer_to(PHOTOS[reply.photo]) for reply in loop.replies] == [True] * 7
    assert all(0 < reply.ms <= loop.elapsed_s * 1000 for reply in loop.replies)


def test_a_header_of_the_server_in_front_of_the_answer_is_cut_off():
    with TableSystem("peer", prefix=b'{"model_name":"search"}').serving(b"one") as endpoint:
        (reply,) = closed_loop(endpoint, PHOTOS, clients=1, searches=1).replies
    assert reply.answer() == answer_to(b"one")


def test_an_error_status_ends_the_loop_with_the_server_s_words():
    with (
        TableSystem("peer", status=503).serving(b"one") as endpoint,
        pytest.raises(PeerFailed, match=r"answered with 503: \{.*one"),
    ):
        closed_loop(endpoint, PHOTOS, clients=2, searches=4)


def test_a_server_that_is_not_there_is_told():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but nobody listens
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(PeerFailed, match="was not answered: ConnectionRefusedError"):
            closed_loop(Endpoint(address, "/search"), PHOTOS, clients=1, searches=1)
