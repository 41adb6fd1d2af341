"""Which kind of index serves a catalogue: exact search while one is quick, inverted lists beyond."""

from lookalike.index.manifest import Kind

# One exact search takes this long for each number of each embedding, on one core (docs/benchmarks.md).
EXACT_NS_PER_NUMBER = 0.35
# What an exact search may take: a ninth of a whole search, which decodes and runs two networks besides.
EXACT_BUDGET_MS = 5.0
# A catalogue comes back to exact search only well below the limit, so that one near it is not rebuilt at every edit.
BACK_TO_EXACT = 0.5


def choose_index_kind(count: int, dim: int, before: Kind = "flat") -> Kind:
    """Return the kind for `count` embeddings of `dim` dimensions, where `before` has served until now."""
    limit_ms = EXACT_BUDGET_MS * (BACK_TO_EXACT if before == "ivf" else 1.0)
    return "flat" if count * dim * EXACT_NS_PER_NUMBER / 1e6 <= limit_ms else "ivf"
