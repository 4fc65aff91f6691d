"""Fetch data: download, unpack or find them, lay them out as a reader expects, and record what they are."""
