"""Logs and traces, set up once per process."""
