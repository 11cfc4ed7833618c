"""SPDK's Blobstore in Python: blobs in one file or device, safe in any power cut."""
