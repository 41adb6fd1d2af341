"""Clients as they are: they search, search in two trips, ask for boxes and for attributes, and think in between.

Run by `python -m benchmarks.load`, which judges the samples; or with locust's own page, without judgement:
    locust -f benchmarks/locustfile.py --host http://127.0.0.1:8080 --photos DIR --run-dir /tmp/run
"""
# locust's hooks and gevent carry no types.
# mypy: disable-error-code="untyped-decorator,no-untyped-call,import-untyped"

import json
import os
import time
from argparse import ArgumentParser
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import gevent
from gevent.event import Event
from locust import FastHttpUser, LoadTestShape, events, poisson, task
from locust.env import Environment

from benchmarks.photos import Photo, load_photos, pick
from benchmarks.samples import PHASES_FILE, Sample, SampleFile
from benchmarks.shapes import SECONDS, SHAPES, THINK_S, clients_for, phase_at

_TIMEOUT_S = 30.0  # beyond every deadline of the service: what still hangs then is an error
_CLIENTS_STARTED_PER_S = 100  # at once, as far as locust can: a client thinks before its first task


@events.init_command_line_parser.add_listener
def add_options(parser: ArgumentParser) -> None:
    """Add this file's options to locust's own."""
    parser.add_argument("--shape", choices=list(SHAPES), default="steady")
    parser.add_argument("--tasks-per-s", type=float, default=1.0, help="at the shape's full height")
    parser.add_argument("--seconds", type=float, default=0, help="of the whole run; 0: the shape's own")
    parser.add_argument("--photos", required=True, help="a folder of images")
    parser.add_argument("--run-dir", required=True, help="where the samples go")


@events.init.add_listener
def prepare(environment: Environment, **_: Any) -> None:
    """Read the photos, and record every request of this process from now on."""
    options = environment.parsed_options
    assert options is not None
    file = SampleFile(Path(options.run_dir) / f"samples-{os.getpid()}.jsonl")
    environment.events.request.add_listener(partial(record, file))

    def fail(**_: Any) -> None:
        environment.process_exit_code = 1

    # What goes wrong in a client itself would leave neither a sample nor a trace.
    environment.events.user_error.add_listener(fail)
    # In a thread, so that this process still answers the one that leads it (`--processes`).
    Client.photos = gevent.get_hub().threadpool.apply(prepared_photos, (Path(options.photos),))
    Client.prepared.set()


def prepared_photos(folder: Path) -> list[Photo]:
    """Return the photos with their small copies: made later, one would hold up all clients."""
    photos = load_photos(folder)
    return [photo for photo in photos if photo.small]


def record(
    file: SampleFile,
    name: str,
    response_time: float,
    start_time: float,
    exception: Exception | None,
    context: dict[str, str],
    **_: Any,
) -> None:
    """Keep the raw sample: locust itself rounds response times into buckets."""
    error = None if exception is None else str(exception) or type(exception).__name__
    file.add(Sample(name, context["photo"], start_time, response_time, error))


class Client(FastHttpUser):
    """One client; weights are shares of the tasks in percent."""

    photos: list[Photo]
    prepared = Event()
    wait_time = poisson(1 / THINK_S)
    network_timeout = connection_timeout = _TIMEOUT_S

    def on_start(self) -> None:
        """Think first: clients that began together would come together."""
        self._random = Random()
        self.prepared.wait()
        self.wait()

    @task(50)
    def search(self) -> None:
        """Send the photo as it is."""
        photo = self._photo()
        self._send("search", "search", photo, photo.data, photo.content_type)

    @task(20)
    def search_in_two_trips(self) -> None:
        """Ask for the box on a small copy, cut the original here, search the crop as it is."""
        photo, start_s = self._photo(), time.time()
        found, detect_ms = self._send("two_trip.detector", "detector", photo, photo.small, "image/jpeg")
        search_ms = 0.0
        if found is not None:
            box = tuple(found["detections"][0]["box"]) if found["detections"] else None
            # In a thread of its own: it must not hold up the other clients, whose clocks run.
            crop = gevent.get_hub().threadpool.apply(photo.crop, (box,))
            found, search_ms = self._send(
                "two_trip.search", "search", photo, crop, "image/jpeg", {"x-lookalike-crop": "none"}
            )
        self.environment.events.request.fire(
            request_type="TRIPS",
            name="two_trip",
            response_time=detect_ms + search_ms,
            response_length=0,
            start_time=start_s,
            exception=RuntimeError("a trip failed") if found is None else None,
            context={"photo": photo.kind},
        )

    @task(15)
    def detect(self) -> None:
        """Ask for boxes on the photo as it is."""
        photo = self._photo()
        self._send("detector", "detector", photo, photo.data, photo.content_type)

    @task(15)
    def describe(self) -> None:
        """Ask for the attributes of a small copy."""
        photo = self._photo()
        self._send("metadata_creator", "metadata_creator", photo, photo.small, "image/jpeg")

    def _photo(self) -> Photo:
        return pick(self.photos, self._random)

    def _send(
        self,
        name: str,
        model: str,
        photo: Photo,
        body: bytes,
        content_type: str,
        options: dict[str, str] | None = None,
    ) -> tuple[dict[str, Any] | None, float]:
        """Return the answer, None where there is none or a part of it is missing; and the latency in ms."""
        with self.client.post(
            f"/predictions/{model}",
            body,  # type: ignore[arg-type]  # bytes are sent as they are
            name=name,
            headers={"content-type": content_type, **(options or {})},
            context={"photo": photo.kind},
            catch_response=True,
        ) as reply:
            answer = json.loads(reply.content or b"null") if reply.status_code == 200 else None
            if answer is None:
                reply.failure(f"status {reply.status_code}")
            elif answer.get("degraded"):
                reply.failure(f"degraded: {answer['degraded']}")
                answer = None
            latency_ms = float(reply.request_meta["response_time"])
        return answer, latency_ms


class Shape(LoadTestShape):
    """The shape that `--shape` names; writes down when each phase began."""

    def __init__(self) -> None:
        super().__init__()
        self._marked = ""

    def tick(self) -> tuple[int, float] | None:
        """Return how many clients there shall be now."""
        assert self.runner is not None
        options = self.runner.environment.parsed_options
        assert options is not None
        phase = phase_at(options.shape, self.get_run_time(), options.seconds or SECONDS[options.shape])
        self._mark(Path(options.run_dir), phase.name if phase else "end")
        if phase is None:
            return None
        return clients_for(options.tasks_per_s, phase.height), _CLIENTS_STARTED_PER_S

    def _mark(self, run_dir: Path, name: str) -> None:
        if name == self._marked:
            return
        self._marked = name
        with (run_dir / PHASES_FILE).open("a") as file:
            file.write(json.dumps({"name": name, "start_s": time.time()}) + "\n")
