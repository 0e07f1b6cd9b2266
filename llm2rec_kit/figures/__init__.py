"""Static figures of the notebooks and the report; each function returns a matplotlib Figure."""
