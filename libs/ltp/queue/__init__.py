"""Work that is claimed from Postgres under a lease, so that every piece of it has exactly one effect."""
