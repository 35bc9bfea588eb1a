"""Two outputs of the same rows compared: what is the same, what has changed."""
