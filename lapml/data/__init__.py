"""From an archive or a folder to batches: sources, readers, index, packed images, views."""
