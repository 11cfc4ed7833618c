"""A picture of a store: which blob owns which cluster, and which reads from which."""
