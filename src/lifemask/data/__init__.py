"""Generators and loaders of labelled faces."""
