"""From a source of images to a corpus: WebDataset tars with a manifest (see `largescale.corpus.manifest`)."""
