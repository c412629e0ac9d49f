"""Secrets and tokens: made, stored and compared in one place."""
