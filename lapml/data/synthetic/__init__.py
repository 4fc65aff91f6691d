"""The synthetic birds, in the layout of any reader, so that they pass through the same code as real data."""
