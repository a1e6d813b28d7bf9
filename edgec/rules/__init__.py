"""Rules: patterns of nodes, conditions on them, and what stands there instead; read from `*.rules`, checked and proved."""

from edgec.rules.apply import fires, rewrite, try_rule, why_not
from edgec.rules.check import load, load_all, load_files
from edgec.rules.match import Rule
from edgec.rules.prove import Proof, proof, prove

__all__ = ["Proof", "Rule", "fires", "load", "load_all", "load_files", "proof", "prove", "rewrite", "try_rule", "why_not"]
