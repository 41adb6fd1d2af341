"""The first search of a process is as quick as the next: what it needs was imported before."""

import subprocess
import sys
from pathlib import Path

from tests.index_samples import publish

FIRST_SEARCH = """
import sys
import numpy as np
from pathlib import Path
from lookalike.index.live import LiveIndex
with LiveIndex(Path(sys.argv[1])) as live:
    index = live.current()
    before = set(sys.modules)
    (hits,) = index.search(np.eye(1, index.manifest.dim, dtype=np.float32), 5, {"half": ["1"]}, None)
    assert len(hits) == 5
    assert len(index.embeddings_of([hits[0].item_id])) == 1
    print(sorted(set(sys.modules) - before))
"""


def test_the_first_search_imports_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FIRST_SEARCH, str(publish(tmp_path / "index"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
