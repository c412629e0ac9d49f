"""Stages done in the order of their needs, each once, reused where nothing they rest on has changed."""
