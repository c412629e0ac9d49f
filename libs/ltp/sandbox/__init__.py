"""Where foreign code is run: the evaluator's scorers and the rewards of training judge answers in the same cage."""
