"""What a run will make and cost, told before it starts."""
