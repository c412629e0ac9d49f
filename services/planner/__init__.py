"""Planner: a configuration that fits, the memory it is predicted to need, and why the others lost."""
