"""The textual graph: `edge 1`, then the graph, then its bodies. What is printed is read back as the same graph."""

from edgec.lang.text_file import load, save, save_whole, whole
from edgec.lang.text_reader import parse, parse_type
from edgec.lang.text_types import show_type
from edgec.lang.text_writer import show

__all__ = ["load", "parse", "parse_type", "save", "save_whole", "show", "show_type", "whole"]
