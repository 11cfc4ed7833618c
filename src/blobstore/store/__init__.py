"""The store as a whole: making, loading, unloading, and the blobs in it."""
