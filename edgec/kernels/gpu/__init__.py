"""Kernels for GPUs: plans, and their text in OpenCL C or CUDA C++. No TVM, no device is needed to make them."""
