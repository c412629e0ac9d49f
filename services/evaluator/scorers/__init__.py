"""How answers are judged: rules in this process, foreign code in a sandbox, and other models over their endpoints."""
