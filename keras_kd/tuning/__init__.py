"""Searches over a recipe."""
