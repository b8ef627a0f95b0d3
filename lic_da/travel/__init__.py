"""Packs on their way: to the Hugging Face Hub or a folder, and from there."""
