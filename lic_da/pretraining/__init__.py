"""Pre-training of base codecs."""
