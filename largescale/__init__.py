"""largescale: distributed training, mining and evaluation of image-retrieval networks."""
