"""The ``lapml`` command, one file per family of commands. A command names files and calls one function, which it imports."""

from lapml.cli.app import app

__all__ = ["app"]
