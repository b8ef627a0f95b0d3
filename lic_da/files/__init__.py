"""Images to ``.lic`` files and back, one or a folder of them."""
