"""The way to a host over SSH: one connection, its files, and typed refusals."""
