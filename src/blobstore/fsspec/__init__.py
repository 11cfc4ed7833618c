"""Volumes as files of fsspec: what pandas, Dask and others open as ``blobstore://disk.img/name``."""
