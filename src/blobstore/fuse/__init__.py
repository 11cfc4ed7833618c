"""Files and block devices of the host that show blobs, by FUSE."""
