"""The files of an index: arrays, checksums, publishing. What the bytes of a posting mean is of no concern here."""
