"""Runs a function in several real processes joined by gloo."""

from largescale.testing.worlds import PRELOAD, free_port, kill_in_world, run_world, show_stacks, start_world

__all__ = ["PRELOAD", "free_port", "kill_in_world", "run_world", "show_stacks", "start_world"]
