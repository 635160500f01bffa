"""The states of a run: written, found again, mirrored."""
