"""Image files to one table of grey images."""
