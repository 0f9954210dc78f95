"""Teacher outputs computed once, and reused."""
