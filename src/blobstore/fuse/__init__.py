"""Blobs as files of the host, by FUSE."""
