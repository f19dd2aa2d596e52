"""What is trained and what came out, as values: Runs, Results, names, and the store of records. Imports no torch."""
