"""Models, training and comparison with published numbers for the deepnets course."""
