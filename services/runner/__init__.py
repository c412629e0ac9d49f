"""The runner: drives verl on a host, and never harms a healthy run because it lost sight of it."""
