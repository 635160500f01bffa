"""The embedded demo corpus: procedural landmarks, rendered from many camera positions."""
