"""What tests of passes need: golden cases, numbers before and after, random graphs. For edgec's own tests and for users'."""

from edgec.testing.compare import difference

__all__ = ["difference"]
