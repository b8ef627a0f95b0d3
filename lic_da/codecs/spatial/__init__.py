"""Transforms by parts of an image: tiles and crops."""
