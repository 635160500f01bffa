"""Data sets of classes, as they are published."""
