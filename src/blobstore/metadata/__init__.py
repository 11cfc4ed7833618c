"""Blob metadata between the device and memory: chains, loading, recovery, persisting."""
