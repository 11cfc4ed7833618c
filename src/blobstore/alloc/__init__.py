"""Pure memory: what is free, claimed, and on its way back."""
