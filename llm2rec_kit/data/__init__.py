"""From a source to a corpus: cleaning, filters, splits, leakage, the text of an item. Sources stand in `sources/`."""
