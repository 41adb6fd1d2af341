"""What several unit tests share."""

import resource
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.s3_server import S3Server


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Threads that wait for each other cost more than they bring on small networks."""
    torch = pytest.importorskip("torch", reason="training needs the extra lookalike[train]")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def s3() -> "Iterator[S3Server]":
    """A real S3 server of the module's own, which its tests may stop."""
    from tests.s3_server import running_s3  # here: its packages take a second to import

    with running_s3() as server:
        yield server


@pytest.fixture
def url(s3: "S3Server", request: pytest.FixtureRequest) -> str:
    """A place in that server that no other test uses."""
    return s3.url(f"{request.module.__name__.rpartition('.')[2]}/{request.node.name}")


@pytest.fixture
def file_size_limit() -> Iterator[None]:
    """Let no file grow beyond 20 kB: what a full disk does to a writer, without filling one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
