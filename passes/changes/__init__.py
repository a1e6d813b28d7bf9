"""Rewrites that need arithmetic on shapes, by what they are about; canonicalize and legalize say which of them they use."""
