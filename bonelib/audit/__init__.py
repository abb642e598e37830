"""What is wrong with the data: copies, conflicting labels, defects and shortcuts."""
