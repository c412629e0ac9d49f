"""Surgery promises numerically right weights, or an error and nothing written."""
