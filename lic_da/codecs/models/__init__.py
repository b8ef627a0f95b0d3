"""Architectures of codecs that CompressAI does not have, or not in this form."""
