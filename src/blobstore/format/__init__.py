"""The on-disk format: bytes to frozen values and back, one module per structure."""
