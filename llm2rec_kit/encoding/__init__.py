"""From titles to item vectors: encoders, how titles are read, and tables that come from elsewhere."""
