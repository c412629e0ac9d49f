"""The search for a plan, pure: the planner service and the offline `ltp plan` decide by the same code."""
