"""Which layout each tensor has, and where it is copied to another one: the question in numbers, and its exact answer. Knows no graph."""

from edgec.layouts.problem import Answer, Problem, Read, Work
from edgec.layouts.solve import solve

__all__ = ["Answer", "Problem", "Read", "Work", "solve"]
