"""The runner promises to drive verl on a host and never to harm a healthy run because it lost sight of it."""
