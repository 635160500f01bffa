"""What a training leaves when it has ended."""
