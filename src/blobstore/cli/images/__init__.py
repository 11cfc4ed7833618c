"""Disk images of other programs: what `import` reads and `export` writes."""
