"""One paper, one file: photo crops to geometry or appearance."""
