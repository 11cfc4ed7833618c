"""What proves this project: damaged and hostile stores, fuzzing, killed processes, crash scenarios.

Each proof is a program, as in `python -m tests.proof.crash`; the Makefile has a target for each.
"""
