"""Mixers: one file a mixer, batched, no Python loop over the batch and no host synchronisation."""
