"""Runs in, results out: what is stored is not trained again; workers, Dask, prices, progress."""
