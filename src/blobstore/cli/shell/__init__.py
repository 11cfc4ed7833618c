"""The shell: the commands on one store that stays open."""
