"""The `spann` program: commands that read options, call the library, and print what it returns."""

from spann.cli.app import cli, main

__all__ = ["cli", "main"]
