"""Embedding spaces: neighbours, quality, groups, UMAP of every stage in one frame."""
