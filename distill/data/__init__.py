"""Pictures, masks and captions: where batches come from."""
