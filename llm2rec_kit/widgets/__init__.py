"""What moves in JupyterLab: the explorer, the recommender panel, the live training curve."""
