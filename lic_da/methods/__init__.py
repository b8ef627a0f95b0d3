"""How codecs are adapted: what all methods share, and a folder for each."""
