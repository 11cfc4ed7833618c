"""Stores broken on purpose: each corruption breaks one invariant of CRASH-SAFETY 5."""
