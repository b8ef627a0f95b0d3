"""Very many images: from folders, tar shards, tables and data sets to shards of streams, and back.

Work is cut into *parts* of some hundred images, once, in a plan that stands in the output folder. A part is
done by one worker and appears whole or not at all; then it gets its line in the manifest. A run that is
started again does the parts that have none, so every image counts once, whatever was killed in between.
Ray Data hands the parts out (:mod:`lic_da.files.bulk.cluster`) and starts workers anew that died; no image
goes through its object store, since workers read and write files themselves.
"""
