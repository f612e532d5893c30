"""The steps of `tools/build_head_model.py`: sources, carrying, parts, statistics, tables."""
