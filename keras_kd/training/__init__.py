"""What happens in `fit`."""
