"""Results beside published numbers: intervals, tests, verdicts."""
