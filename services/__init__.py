"""The seven services. Each keeps the same rooms (CONTRIBUTING.md) and imports no other service."""
