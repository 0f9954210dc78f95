"""Experiments as data: recipes, and the models they name."""
