"""The `lapml` command, a file a family; lapml/cli.py puts them together."""
