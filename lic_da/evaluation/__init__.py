"""Measuring: rate and distortion of real streams, BD-rate, classical codecs, tables and images."""
