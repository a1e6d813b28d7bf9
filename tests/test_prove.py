"""Every rule that ships proves itself, no plausible wrong rule does, and every rule is of use to some model."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgec.access import files, module
from edgec.ir.graph import Graph
from edgec.lang.syntax import read_rules
from edgec.onnx import import_model
from edgec.pipeline import Context, run_passes
from edgec.rules import Rule, load, load_files, proof, prove
from edgec.rules.check import mistakes
from tests.detector import detector
from tests.shared import light, model, needs_models

FILES = [*files("passes", "*.rules"), *files("targets", "**/*.rules")]
RULES = load_files(FILES)
MUTANTS = read_rules((Path(__file__).parent / "mutants.rules").read_text("utf-8"), "mutants.rules")
EXAMPLES = Path(__file__).parents[1] / "examples" / "models"


@pytest.mark.parametrize("rule", RULES, ids=lambda r: r.name)
def test_every_rule_proves_itself(rule: Rule) -> None:
    made = proof(rule)
    assert not made.failures, "\n".join(made.failures)
    assert made.fired >= 20, f"only {made.fired} of {made.tried} specimens tell something of {rule.name}"


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda r: r.name)
def test_every_mutant_is_rejected(mutant: Any) -> None:
    """A mutant that never fires would be rejected for nothing, so it has to do something wrong, and no help from misspelled helpers."""
    wrong = [sentence for sentence, _ in mistakes(mutant)]
    assert not any("helper" in w or "bound" in w or "example" in w for w in wrong)
    if not wrong:
        assert any("does not fire" not in f for f in prove(Rule(mutant, "mutants.rules"), enough=1))


def test_there_are_enough_mutants() -> None:
    assert len(MUTANTS) >= 15


@pytest.mark.parametrize(("text", "wrong"), [
    ("rule r Mul(m: MatMul(x, const w), const s) => MatMul(x, w * channels(s, m, -1)) example x: f32[2,3], w: f32[3,4], s: f32[4]",
     "1 more of the expensive operators"),
    ("rule r Neg(Abs(x)) => Sub(0, Abs(x)) example x: f32[2]", "1 more nodes are computed"),
    ("rule r Neg(x) => Sub(0, Abs(x)) example x: f32[2]", "differs by"),
    ("rule r Relu(x) => Max(x, 0.0001) example x: f32[2]", "differs by"),
    ("rule r Max(x, 0) => Mul(x, Cast(Greater(x, 0)) {to=1}) example x: f32[2]", "other infinities or NaNs"),
    ("rule r Relu(x) where size(dims(x)) == 7 => x example x: f32[2]", "does not fire on example 1"),
    ("rule r Add(x, const c) where nonzero(c) => Add(x, c + 1 - 1 + 0.001) example x: f32[2], c: f32[]", "do not end"),
])
def test_what_a_proof_finds(text: str, wrong: str) -> None:
    failures = prove(load(text)[0])
    assert any(wrong in f for f in failures), failures


def graphs() -> Iterator[tuple[str, Graph]]:
    """Named models in which each rule is of use."""
    for name in ("basic_pitch", "crepe_tiny", "g2p_en_gru_loop", "lprnet_ctc", "magika_v3_3", "minilm_l6_w16", "mnist_opset8",
                 "ppocrv3_det", "selfie_segmentation", "svc_digits", "ultraface_rfb320"):
        shapes = {"ppocrv3_det": {"x": [1, 3, 160, 160]}, "g2p_en_gru_loop": {"ids": [1, 8]},
                  "minilm_l6_w16": {"input_ids": [1, 16], "attention_mask": [1, 16]}}.get(name)
        yield name, import_model(model(name), shapes=shapes, static=name not in ("svc_digits", "g2p_en_gru_loop"))
    yield "light_densenet121", import_model(light("densenet121"))
    yield "detector", import_model(detector())
    for path in sorted(EXAMPLES.glob("*.onnx")):
        yield path.stem, import_model(path)


@needs_models
def test_every_rule_is_of_use() -> None:
    catalog = module("passes.catalog")
    used: Counter[str] = Counter()
    for _, graph in graphs():
        context = Context()
        run_passes(graph, catalog.PORTABLE, catalog.CATALOG, context)
        used.update(r.name for r in context.trace)
    assert not {r.name for r in RULES} - used.keys()
