"""What was measured and what it says: metrics, tests, slices, kept weights, which evaluations count now."""
