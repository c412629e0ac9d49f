"""Tests of one service each, on a real disk or database."""
