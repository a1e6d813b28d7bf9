"""Kernels: what a unit can run as one function, and how that function is written."""
