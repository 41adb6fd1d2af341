"""kill -9 of the gateway while clients add and remove items: every change that was answered is there, once."""

import hashlib
import multiprocessing
import random
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from lookalike.config import IndexSettings
from lookalike.gateway.keys import new_key
from lookalike.gateway.settings import GatewaySettings
from lookalike.index.edits import IndexEditor
from lookalike.index.layout import IndexLayout
from lookalike.index.verify import verify_snapshot
from lookalike.server_config import free_ports
from tests.colour_embedder import ColourEmbedder, catalogue_of, save_picture
from tests.gateway_running import ColoursBehind, standing_behind
from tests.resilience.killed_editor import serve_gateway
from tests.resilience.promises import Promise

CLIENTS = 3
SECRET, ENTRY = new_key("ops", "admin")


@dataclass
class Client:
    """Adds and removes items of its own; `held` is what was answered, `open` the change that was not."""

    name: str
    random: random.Random
    pictures: list[bytes]
    held: dict[str, bytes] = field(default_factory=dict)
    unanswered: set[str] = field(default_factory=set)
    answered: int = 0

    def change_until_refused(self, url: str) -> None:
        """Make changes one by one until the gateway is gone."""
        headers = {"x-api-key": SECRET, "content-type": "image/png"}
        with httpx.Client(base_url=url, headers=headers, timeout=30) as http:
            while True:
                item_id = f"{self.name}-{self.random.randrange(8)}"
                removes = item_id in self.held and self.random.random() < 0.5
                picture = None if removes else self.random.choice(self.pictures)
                self.unanswered = {item_id}
                method = "DELETE" if removes else "PUT"
                try:
                    reply = http.request(method, f"/items/{item_id}", content=picture)
                except httpx.TransportError:
                    return
                assert reply.status_code in (200, 201), reply.text
                self.answered += 1
                if picture is None:
                    del self.held[item_id]
                else:
                    self.held[item_id] = picture
                self.unanswered = set()

    def settle(self, there: dict[str, bytes]) -> list[str]:
        """Return what is not as it was answered; what was not answered may be either way, and is taken as it is."""
        mine = {item_id: content for item_id, content in there.items() if item_id.startswith(f"{self.name}-")}
        wrong = []
        for item_id in (mine.keys() | self.held.keys()) - self.unanswered:
            expected = self.held.get(item_id)
            if mine.get(item_id) != (None if expected is None else hashlib.sha256(expected).digest()):
                wrong.append(item_id)
        by_hash = {hashlib.sha256(picture).digest(): picture for picture in self.pictures}
        self.held = {item_id: by_hash[content] for item_id, content in mine.items()}
        return wrong


def test_no_kill_of_the_gateway_loses_or_doubles_an_answered_change(
    tmp_path: Path, cycles: int, processes: multiprocessing.context.ForkServerContext, promise: Promise
) -> None:
    index_dir, seeds = tmp_path / "index", random.Random("kills of the gateway")
    IndexEditor(index_dir, IndexSettings()).build(catalogue_of(tmp_path / "first", 5), ColourEmbedder())
    pictures = [save_picture(tmp_path / f"{n}.png", 100 + n).read_bytes() for n in range(12)]
    clients = [Client(f"client{n}", random.Random(n), pictures) for n in range(CLIENTS)]
    wrong, doubled, gone = [], 0, 0
    (port,) = free_ports("127.0.0.1", 1)
    with standing_behind(ColoursBehind()) as (upstream, _):
        settings = GatewaySettings(
            port=port, upstream_url=upstream, index_dir=index_dir, keys=(ENTRY,), rate=None, edit_window_ms=5
        )
        for _ in range(max(2, cycles // 5)):
            process = processes.Process(target=serve_gateway, args=(settings,))
            process.start()
            url = f"http://127.0.0.1:{port}"
            until_it_answers(url)
            threads = [threading.Thread(target=client.change_until_refused, args=(url,)) for client in clients]
            for thread in threads:
                thread.start()
            wanted = sum(client.answered for client in clients) + seeds.randint(1, 6)
            end_s = time.monotonic() + 30
            while sum(client.answered for client in clients) < wanted and time.monotonic() < end_s:
                time.sleep(0.002)
            time.sleep(seeds.uniform(0, 0.1))  # into the next change
            process.kill()
            process.join(30)
            for thread in threads:
                thread.join(40)
                assert not thread.is_alive()
            records = verify_snapshot(IndexLayout(index_dir).published_dir()).items.records()
            there = {record.item_id: record.content_sha256 for record in records}
            doubled += len(records) - len(there)
            gone += sum(not Path(record.path).is_file() for record in records)
            wrong += [item_id for client in clients for item_id in client.settle(there)]
    assert wrong == []
    promise("gateway_kills.changes_lost", len(wrong), "changes", at_most=0)
    promise("gateway_kills.items_doubled", doubled, "items", at_most=0)
    promise("gateway_kills.images_lost", gone, "images", at_most=0)
    promise("gateway_kills.changes_answered", sum(c.answered for c in clients), "changes", at_least=cycles // 5)


def until_it_answers(url: str) -> None:
    end_s = time.monotonic() + 60
    while time.monotonic() < end_s:
        try:
            if httpx.get(f"{url}/livez").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.02)
    pytest.fail("the gateway does not answer")
