"""Postgres for every service: engine, unit of work, outbox and inbox tables, the one linear migration history."""
