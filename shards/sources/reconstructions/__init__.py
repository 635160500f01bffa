"""Images with what structure from motion knows about them."""
