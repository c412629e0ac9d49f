"""The dataset service promises immutable, content-hashed versions of what was uploaded, or the row that prevents it."""
