"""The synthetic birds, drawn in the layout of any reader, so that they go through the same code as real data."""
