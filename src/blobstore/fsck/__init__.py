"""Looking into a store that may be damaged, and planning its repair (CRASH-SAFETY 5)."""
