"""Latents of training images, kept on disk."""
