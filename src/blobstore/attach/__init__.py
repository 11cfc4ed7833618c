"""Blobs as block devices of the host: `attach` and `detach`."""
