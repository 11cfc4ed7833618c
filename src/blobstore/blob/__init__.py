"""One blob: its state, and what reads and changes it."""
