"""The same platform as in the end-to-end tests."""

from tests.e2e.conftest import model, platform

__all__ = ["model", "platform"]
