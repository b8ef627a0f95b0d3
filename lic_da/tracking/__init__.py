"""Where numbers go: Weights & Biases and CSV files."""
