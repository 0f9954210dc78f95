"""A student as a file for a device, and its proof."""
