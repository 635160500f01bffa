"""Callbacks that tell when a training goes wrong."""
