"""The `ltp` command: the door for a person at a terminal, and the supervisor behind `ltp up`."""
