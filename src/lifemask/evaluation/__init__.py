"""Benchmarks: predict once, score many."""
