"""Several serving processes on one port, which read the parameters from memory that one writer keeps."""
