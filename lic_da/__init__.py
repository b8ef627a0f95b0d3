"""Decoder-side domain adaptation of learned image codecs."""
