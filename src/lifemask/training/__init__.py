"""Training loops, recipes and checkpoints."""
