"""The evaluator promises a score with its uncertainty and a paired verdict between two models."""
