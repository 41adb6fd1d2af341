"""Damages an index version in many seeded ways, opens and searches it; ends at the first thing that is no typed error.

A process of its own, as what reads these files is C++: `python -m tests.fuzz.index_damager INDEX_DIR FIRST COUNT`.
"""

import random
import resource
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

from lookalike.config import IndexSettings
from lookalike.errors import LookalikeError
from lookalike.index.faiss_index import FaissIndex, open_index
from lookalike.index.layout import IndexLayout

MAX_BYTES = 6 << 30  # of addresses, which libraries reserve far more of than they use
INTERESTING = (0, 1, 0x7F, 0x80, 0xFF)


def damage(version_dir: Path, chance: random.Random) -> str:
    """Flip, cut, lengthen, exchange or remove something in one of the version's files; return what was done."""
    path = chance.choice(sorted(version_dir.iterdir()))
    data = bytearray(path.read_bytes())
    how = chance.choice(("flip", "flip", "flip", "number", "number", "zero", "cut", "lengthen", "swap", "remove"))
    # Headers and footers are where the traps are: half of the places are there.
    at = chance.choice((chance.randrange(len(data)), chance.randrange(min(200, len(data))), -1 - chance.randrange(200)))
    at %= len(data)
    if how == "flip":
        for _ in range(chance.choice((1, 1, 4))):
            data[(at + chance.randrange(16)) % len(data)] = chance.choice((*INTERESTING, chance.randrange(256)))
    elif how == "number":
        value = chance.choice((0, 1, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1, chance.randrange(2**64)))
        data[at : at + 8] = value.to_bytes(8, "little")[: len(data) - at]
    elif how == "zero":
        data[at : at + 64] = bytes(len(data[at : at + 64]))
    elif how == "cut":
        del data[at:]
    elif how == "lengthen":
        data += bytes(chance.randrange(1, 300))
    elif how == "swap":
        other = chance.randrange(len(data))
        data[at], data[other] = data[other], data[at]
    else:
        path.unlink()
        return f"{path.name} removed"
    path.write_bytes(data)
    return f"{path.name} {how} at {at}"


def use(index: FaissIndex) -> None:
    """Do with an index what a router and a gateway do."""
    query = np.full((1, index.manifest.dim), index.manifest.dim**-0.5, np.float32)
    index.search(query, 5)
    index.search(query, 50)
    for name in index.items.attributes[:2]:
        index.search(query, 5, {name: ["0", "1"]})
    index.items.page(0, 10)
    index.items.records()
    index.items.record("item-1")
    index.items.content_hashes()
    index.embeddings_of(["item-0"])


def outcome(index_dir: Path, settings: IndexSettings) -> str:
    try:
        use(open_index(index_dir, settings))
    except LookalikeError as error:
        return error.code
    return "searched"


def run(index_dir: Path, first: int, count: int) -> Counter[str]:
    """Try `count` seeds from `first` on; return how often each outcome came."""
    outcomes: Counter[str] = Counter()
    settings = IndexSettings()
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(first, first + count):
            copy = Path(folder) / str(seed)
            shutil.copytree(index_dir, copy)
            done = damage(IndexLayout(copy).published_dir(), random.Random(seed))
            print(f"{seed}: {done}", file=sys.stderr, flush=True)
            outcomes[outcome(copy, settings)] += 1
            shutil.rmtree(copy)
    return outcomes


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (MAX_BYTES, MAX_BYTES))  # who asks for more than is there is brought down
    print(dict(run(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
