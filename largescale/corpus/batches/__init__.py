"""From the images of a plan to batches of tensors, decoded by worker processes."""
