"""The series as a whole: studies of notebooks 06 and 07, plans, the runner, reports, grids; the profiles."""
