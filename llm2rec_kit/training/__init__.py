"""LLM2Rec's three trainings (CSFT, MNTP, item contrast), their samples and batches, and what to watch while they run."""
