"""What a run folder says, as pages."""
