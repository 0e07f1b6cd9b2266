"""The product out: encoder and tables in the layouts of other tools."""
