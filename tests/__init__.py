"""Tests, one folder a kind: unit (pure), service (one service and its disk or database), contract, e2e, bench, chaos."""
