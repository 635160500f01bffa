"""From what a network says of an image to the descriptor that is compared."""
