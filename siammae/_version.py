"""The version, once: pyproject.toml and the changelog test read it from here."""

__version__ = "0.2.0"
