"""The facades that programs use."""
