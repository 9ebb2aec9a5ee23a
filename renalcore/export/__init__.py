"""Writers: typed values in, the bytes of a file out."""
