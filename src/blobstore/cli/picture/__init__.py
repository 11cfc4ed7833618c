"""A picture of a store: who owns which clusters, and who reads from whom."""
