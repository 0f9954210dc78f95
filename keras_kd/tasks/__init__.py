"""What a model's outputs mean."""
