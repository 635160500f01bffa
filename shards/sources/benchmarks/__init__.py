"""Test sets and distractors of image retrieval, as they are published."""
