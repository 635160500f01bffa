"""Collections of one's own: lists of files, and tables that hold the images."""
