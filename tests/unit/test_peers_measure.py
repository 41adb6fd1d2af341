"""A comparison takes every system in every round, leaves out those that fail, and stops where answers differ."""

import fcntl
from contextlib import contextmanager

import pytest

from benchmarks.peers.errors import AnswersDiffer, PeerFailed
from benchmarks.peers.measure import Plan, compare
from tests.unit.peers_server import TableSystem

PHOTOS = [b"one", b"two"]
WARM_UP = 6


def plan(**changed):
    usual = {"photos": PHOTOS, "clients": [1, 3], "searches": 4, "rounds": 3, "seed": 0, "quiet_s": 0.0}
    return Plan(**usual | {"warm_up": WARM_UP} | changed)


def test_every_system_is_searched_in_every_round_by_each_number_of_clients():
    reference, peer = TableSystem("Lookalike"), TableSystem("peer")
    results = compare(reference, [peer], plan())
    assert {(s.system, s.round, s.clients) for s in results.samples} == {
        (name, number, clients) for name in ("Lookalike", "peer") for number in (1, 2, 3) for clients in (1, 3)
    }
    assert {len(sample.latencies_ms) for sample in results.samples} == {4}
    assert len(results.starts) == 6
    assert peer.turns == 3
    assert len(peer.photos) == 3 * (WARM_UP + 2 * 4)
    assert not results.left_out


def test_the_order_is_shuffled_and_the_same_for_the_same_seed():
    def orders(seed):
        results = compare(TableSystem("a"), [TableSystem("b"), TableSystem("c")], plan(seed=seed, rounds=4))
        names = [start.system for start in results.starts]
        return [tuple(names[i : i + 3]) for i in range(0, 12, 3)]

    first = orders(1)
    assert first == orders(1)
    assert len(set(first)) > 1
    assert all(sorted(order) == ["a", "b", "c"] for order in first)


def test_a_peer_that_fails_is_left_out_with_the_reason_and_the_others_go_on():
    peers = [TableSystem("broken", status=500), TableSystem("sound")]
    results = compare(TableSystem("Lookalike"), peers, plan())
    assert list(results.left_out) == ["broken"]
    assert "answered with 500" in results.left_out["broken"]
    assert {sample.system for sample in results.samples} == {"Lookalike", "sound"}
    assert peers[0].turns == 1


def test_a_peer_that_cannot_be_started_is_left_out_with_what_it_said():
    class Missing(TableSystem):
        @contextmanager
        def serving(self, photo):
            raise PeerFailed("the server ended with 1\nno such library")
            yield

    results = compare(TableSystem("Lookalike"), [Missing("missing")], plan(rounds=1))
    assert results.left_out == {"missing": "the server ended with 1\nno such library"}


def test_a_reference_that_fails_ends_the_comparison():
    with pytest.raises(PeerFailed, match="answered with 500"):
        compare(TableSystem("Lookalike", status=500), [TableSystem("peer")], plan())


def test_an_answer_that_differs_stops_the_comparison_before_anything_is_timed():
    peer = TableSystem("peer", wrong=frozenset([b"two"]))
    with pytest.raises(
        AnswersDiffer, match=r"peer does not answer photo 1 as Lookalike does: the hits are \['another'\]"
    ):
        compare(TableSystem("Lookalike"), [peer], plan())
    assert len(peer.photos) == WARM_UP


def test_the_lock_file_is_held_during_a_round_and_free_between(tmp_path):
    file = tmp_path / "bench.lock"
    taken = []

    class Watching(TableSystem):
        def serving(self, photo):
            with file.open("a") as other:
                try:
                    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    taken.append("free")
                except OSError:
                    taken.append("held")
            return super().serving(photo)

    compare(Watching("Lookalike"), [], plan(rounds=2, lock_file=file))
    assert taken == ["held"] * 3
    with file.open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
