"""End-to-end tests of the console."""
