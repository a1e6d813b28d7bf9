"""The targets: what edgec knows about machines, and about no graph."""
