"""The questions that the dataset service answers."""
