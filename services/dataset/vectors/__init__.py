"""Vectors of rows: made once per text and model, kept in Postgres, searched through indexes that can always be rebuilt."""
