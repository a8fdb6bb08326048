"""The loop, from the command line to the result."""
