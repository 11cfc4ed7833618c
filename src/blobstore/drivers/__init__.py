"""Drivers step the coroutines of the core and perform what they ask for."""
