"""The planner promises a configuration that fits, what it is predicted to cost, and why the others lost."""
