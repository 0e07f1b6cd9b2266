"""A finished run as a page: results, tests, comparison with other runs and with what its profile expects."""
