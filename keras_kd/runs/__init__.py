"""The run folder, read and written."""
