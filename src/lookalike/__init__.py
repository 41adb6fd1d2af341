"""Lookalike: reverse image search as a service."""

from importlib.metadata import version

__version__ = version("lookalike")
