"""The scheduler promises that every accepted job ends in exactly one final state and its effects happen once."""
