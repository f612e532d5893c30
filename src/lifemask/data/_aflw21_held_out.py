"""Names of the AFLW crops that are held out: `load_aflw21`'s split, written down for scoring."""

HELD_OUT_NAMES: frozenset[str] = frozenset()
