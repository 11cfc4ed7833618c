"""Measurements next to a yardstick: `python -m benchmarks`, or `make bench`."""
