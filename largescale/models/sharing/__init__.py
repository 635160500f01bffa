"""Networks on disk, on the hub, and as others have published them."""
