"""Devices: what operations run on."""
