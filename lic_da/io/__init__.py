"""Bytes in and out: files, images and streams."""
