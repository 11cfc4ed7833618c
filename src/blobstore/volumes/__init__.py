"""Volumes: the blobs of a volume store, with names and uuids (FORMAT 9)."""
