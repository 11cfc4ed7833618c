"""The commands: each module has one, as `command`."""
