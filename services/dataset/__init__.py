"""Dataset: rows in, immutable content-hashed versions out."""
