"""The runner: drives verl on this machine, on Ray or on an SSH host, and never harms a healthy run because it lost sight of it."""
