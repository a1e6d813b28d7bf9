"""Regions for NPUs: the model file that a vendor's compiler reads, that compiler, and what it makes."""
