"""One run, start to end, and many runs as one network."""
