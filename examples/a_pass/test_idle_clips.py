"""Tests of the passes: `pytest examples/a_pass`. `check` also runs both graphs on random inputs and compares the numbers."""

import sys
from pathlib import Path

from edgec.testing import check

sys.path.insert(0, str(Path(__file__).parent))
from idle_clips import IDLE_CLIPS, OWN_RULES


def test_a_clip_that_cuts_nothing_goes() -> None:
    """The whole graph after the pass is compared."""
    check(IDLE_CLIPS, before="""
        graph @g(%x: f32[2,3]) {
          %low: f32[] = splat 0.0
          %high: f32[] = splat 6.0
          %a: f32[2,3] = Sigmoid(%x) at "gate"
          %b: f32[2,3] = Clip(%a, %low, %high) at "clip"
          %y: f32[2,3] = Neg(%b) at "neg"
          return %y
        }""", after="""
        graph @g(%x: f32[2,3]) {
          %a: f32[2,3] = Sigmoid(%x) at "gate"
          %y: f32[2,3] = Neg(%a) at "neg"
          return %y
        }""")


def test_a_clip_that_cuts_something_stays() -> None:
    """Nothing may change: "same"."""
    check(IDLE_CLIPS, before="""
        graph @g(%x: f32[2,3]) {
          %high: f32[] = splat 0.5
          %a: f32[2,3] = Sigmoid(%x)
          %y: f32[2,3] = Clip(%a, _, %high)
          return %y
        }""", after="same")


def test_the_root_of_a_square() -> None:
    """A new node has the origin of all that it replaces."""
    check(OWN_RULES, before="""
        graph @g(%x: f32[2,3]) {
          %s: f32[2,3] = Mul(%x, %x) at "square"
          %y: f32[2,3] = Sqrt(%s) at "root"
          return %y
        }""", after="""
        graph @g(%x: f32[2,3]) {
          %y: f32[2,3] = Abs(%x) at "square+root"
          return %y
        }""")
