"""Benchmarks: ours and the peer's in one run, a ratio each; `make bench SUITE=name` runs one, never a test."""
