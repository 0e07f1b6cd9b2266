"""The product out: encoder, tables and corpus in the layouts of other tools."""
