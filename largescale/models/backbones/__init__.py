"""Backbones and what they ask of images."""
