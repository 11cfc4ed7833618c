"""What is built on snapshots: streams, copies, retention, and how much space each takes."""
