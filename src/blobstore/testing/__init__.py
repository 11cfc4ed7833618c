"""Test helpers for this project and for those that build on it."""
