"""Which rows say the same again: pure methods over texts and vectors; every removal keeps its twin, score and method."""
