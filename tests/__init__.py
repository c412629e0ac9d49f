"""Tests, one folder a kind: unit (pure), service (one service on a disk), contract, e2e, bench, chaos."""
