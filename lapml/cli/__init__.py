"""The ``lapml`` command, a file a family of commands: they name files and call one function, which they import then."""

from lapml.cli.app import app

__all__ = ["app"]
