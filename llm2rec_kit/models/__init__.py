"""Decoders: where they come from (hub, folder, GGUF, package), how they are built, saved and made fast, and the mask
that can be lifted."""
