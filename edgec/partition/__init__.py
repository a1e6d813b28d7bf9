"""Which unit of a target runs what: the question in numbers, its exact answer, and the regions that come of it. Knows no graph."""

from edgec.partition.links import link
from edgec.partition.problem import HOST, Copy, Flow, Link, Problem, Stored
from edgec.partition.regions import connected, regions
from edgec.partition.solve import solve

__all__ = ["HOST", "Copy", "Flow", "Link", "Problem", "Stored", "connected", "link", "regions", "solve"]
