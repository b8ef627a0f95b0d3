"""Entropy decoding, and what identifies decoded latents."""
