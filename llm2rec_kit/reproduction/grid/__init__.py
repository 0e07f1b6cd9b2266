"""Many settings at once, whatever they share made once, on a Dask cluster."""
