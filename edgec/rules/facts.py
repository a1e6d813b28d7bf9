"""What ONNX says of operators: whether they exist, how many operands they take, which attributes they have."""

from functools import cache
from typing import Any

from edgec.ir.operators import OWN
from edgec.ir.proto import attribute_of, schema_of


def exists(op: str) -> bool:
    """Whether an operator has a meaning: ONNX's, or one of those of other domains that the evaluator knows."""
    return schema_of(op) is not None or op in OWN


def arity(op: str) -> tuple[int, float]:
    """The smallest and the largest number of operands; no limits for operators that ONNX does not describe."""
    schema = schema_of(op)
    return (0, float("inf")) if schema is None else (schema.min_input, schema.max_input)


def results(op: str) -> int:
    """The largest number of results."""
    schema = schema_of(op)
    return 1 if schema is None else schema.max_output


def has_attribute(op: str, key: str) -> bool:
    """Whether an operator has an attribute of this name; always, for operators that ONNX does not describe."""
    schema = schema_of(op)
    return schema is None or key in schema.attributes


@cache
def default(op: str, key: str) -> Any:
    """What an attribute is when it is not written, None when that is nothing."""
    schema = schema_of(op)
    if schema is None or key not in schema.attributes or not schema.attributes[key].default_value.type:
        return None
    return attribute_of(schema.attributes[key].default_value)
