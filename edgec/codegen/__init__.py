"""From a graph of kernels to a bundle: schedule, memory, objects, C sources, files."""
