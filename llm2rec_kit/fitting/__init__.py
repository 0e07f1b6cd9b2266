"""What every training stands on:
one loop, checkpoints that resume, ragged batches, cross entropy, LoRA, several processes."""
