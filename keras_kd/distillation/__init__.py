"""From a teacher and data to a file for a device, in one call."""
