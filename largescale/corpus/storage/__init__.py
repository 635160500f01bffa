"""Where shards lie, and what of them is kept on this machine."""
