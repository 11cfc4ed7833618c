"""The demo: a process is killed while it writes, and nothing it was promised is lost."""
