"""The text as a graph."""

import json
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

from lark import Token, Tree

from edgec.errors import SourceError
from edgec.ir.graph import Array, Graph, Node, Value, captured
from edgec.ir.types import Map, Optional, Sequence, Tensor, Type
from edgec.lang.grammar import read
from edgec.lang.text_data import dense, random, read_bytes, read_numbers, splat
from edgec.lang.text_types import dtype_of, read_tensor
from edgec.lang.text_writer import VERSION

_NO_BLOBS: Mapping[str, Array] = MappingProxyType({})
_NO_ATTRS: Mapping[str, Any] = MappingProxyType({})
_Part = Any  # a Tree, a Token, or None where an optional part is absent
_T = TypeVar("_T")


def parse(text: str, path: str = "<text>", blobs: Mapping[str, Array] = _NO_BLOBS) -> Graph:
    """The graph of a text: the first graph is the whole, the others are bodies. SourceError points at a mistake."""
    return _Reader(text, path, blobs).root()


def parse_type(text: str, path: str = "<type>") -> Type:
    """The type that `show_type` prints. SourceError points at a mistake."""
    return _Reader(text, path, _NO_BLOBS).type(read("one_type", text, path).children[0])


class _Scope:
    """What names mean: the values of one graph, and behind them those of the graphs around it."""

    def __init__(self, outer: "_Scope | None" = None) -> None:
        self.own: dict[str, Value] = {}
        self.outer = outer

    def find(self, name: str) -> Value | None:
        scope: _Scope | None = self
        while scope is not None:
            if name in scope.own:
                return scope.own[name]
            scope = scope.outer
        return None


class _Reader:
    def __init__(self, text: str, path: str, blobs: Mapping[str, Array]) -> None:
        self.text, self.path, self.blobs = text, path, blobs
        self.trees: dict[str, Tree[Token]] = {}
        self.open: list[str] = []
        self.bodies: dict[str, list[tuple[Graph, dict[str, Value]]]] = {}

    def wrong(self, token: Token, message: str) -> SourceError:
        return SourceError(message, self.text, token.line or 1, token.column or 1, self.path)

    def convert(self, token: Token, how: Callable[[str], _T]) -> _T:
        """What a function makes of a token; its ValueError becomes a mistake at the token's place."""
        try:
            return how(str(token))
        except ValueError as error:
            raise self.wrong(token, str(error)) from None

    def root(self) -> Graph:
        version, *trees = read("graphs", self.text, self.path).children
        if isinstance(version, Tree):
            number = version.children[0]
            if isinstance(number, Token) and int(number) != VERSION:
                raise self.wrong(number, f"this text is of version {number}, only version {VERSION} can be read")
        tokens: list[Token] = []
        for tree in trees:
            if isinstance(tree, Tree) and isinstance(token := tree.children[0], Token):
                if (title := self.bare(token)) in self.trees:
                    raise self.wrong(token, f"there are two graphs {token}")
                self.trees[title] = tree
                tokens.append(token)
        graph = self.graph(self.bare(tokens[0]), None)
        for token in tokens[1:]:
            if self.bare(token) not in self.bodies:
                raise self.wrong(token, f"no node has the body {token}")
        return graph

    def bare(self, token: Token) -> str:
        """The name behind % or @."""
        return self.string(token, 1) if token[1] == '"' else str(token)[1:]

    def string(self, token: Token, start: int = 0) -> str:
        try:
            return str(json.loads(token[start:]))
        except ValueError:
            raise self.wrong(token, "this name holds an unknown escape") from None

    def word(self, token: Token) -> str:
        return self.string(token) if token.startswith('"') else str(token)

    def graph(self, title: str, outer: _Scope | None) -> Graph:
        _, name, params, where, *statements, result = self.trees[title].children
        self.open.append(title)
        scope, weights, nodes = _Scope(outer), dict[Value, Array](), list[Node]()
        inputs = tuple(self.define(p, scope) for p in _children(params))
        for statement in statements:
            if not isinstance(statement, Tree):
                continue
            if statement.data == "node":
                nodes.append(self.node(statement.children, scope))
            else:
                value, array = self.weight(statement, scope)
                weights[value] = array
        outputs = tuple(self.use(t, scope) for t in _children(result))
        self.open.pop()
        bounds = dict(self.bound(b.children) for b in _children(where))
        label = self.string(name) if isinstance(name, Token) else title
        return Graph(label, inputs, outputs, tuple(nodes), weights, bounds)

    def bound(self, parts: list[Token]) -> tuple[str, tuple[int, int]]:
        low, symbol, high = parts
        if int(low) > int(high):
            raise self.wrong(low, f"{low} is more than {high}")
        return self.word(symbol), (int(low), int(high))

    def define(self, result: _Part, scope: _Scope, *, named: bool = True) -> Value:
        token, kind = result.children
        if token.type == "ABSENT":
            if named:
                raise self.wrong(token, "only an output of a node may have no name")
            return Value("", None if kind is None else self.type(kind))
        name = self.bare(token)
        if name in scope.own:
            raise self.wrong(token, f"{token} is defined a second time")
        value = scope.own[name] = Value(name, None if kind is None else self.type(kind))
        return value

    def use(self, token: Token, scope: _Scope) -> Value:
        value = scope.find(self.bare(token))
        if value is None:
            raise self.wrong(token, f"{token} is read before it is defined")
        return value

    def node(self, parts: list[_Part], scope: _Scope) -> Node:
        results, op, args, attrs, device, origin = parts
        inputs = tuple(None if a.type == "ABSENT" else self.use(a, scope) for a in _children(args))
        known = self.attrs(attrs, scope) if attrs else _NO_ATTRS
        outputs = tuple(self.define(r, scope, named=False) for r in results.children) if isinstance(results, Tree) else ()
        return Node(self.word(op), inputs, outputs, known, device and self.word(device.children[0]), self.string(origin) if origin else "")

    def attrs(self, tree: Tree[Token], scope: _Scope) -> Mapping[str, Any]:
        made: dict[str, Any] = {}
        for attr in tree.children:
            key, literal = _children(attr)
            if (name := self.word(key)) in made:
                raise self.wrong(key, f"the attribute {key} is given twice")
            made[name] = self.literal(literal, scope)
        return MappingProxyType(made)

    def weight(self, tree: Tree[Token], scope: _Scope) -> tuple[Value, Array]:
        results, constant = tree.children
        first, *others = _children(results)
        if others:
            raise self.wrong(others[0].children[0], "a constant has one value")
        token = first.children[0]
        value = self.define(first, scope)
        return value, self.constant(constant, value.type, token)

    def constant(self, tree: _Part, kind: Type | None, at: Token) -> Array:
        (content,) = tree.children
        if tree.data == "blob":
            key = self.string(content)
            if key not in self.blobs:
                raise self.wrong(content, f"there is no blob {content}: the tensors that belong to this text are missing")
            return self.blobs[key]
        if not isinstance(kind, Tensor) or not kind.is_static:
            raise self.wrong(at, f"{at} needs a type whose dims are all numbers, such as f32[2,3]")
        shape, dtype = kind.dims, kind.dtype
        try:
            if tree.data == "random":
                return random(int(content), dtype, shape)
            value = self.literal(content, None)
            if tree.data == "splat":
                return splat(value if isinstance(value, list) else [value], dtype, shape)
            return dense(value if isinstance(value, list) else [value], dtype, shape)
        except ValueError as error:
            raise self.wrong(_first(content, at), str(error)) from None

    def literal(self, tree: _Part, scope: _Scope | None) -> Any:
        if isinstance(tree, Tree):
            match tree.data:
                case "list":
                    return [self.literal(c, scope) for c in tree.children if c is not None]
                case "type":
                    return self.type(tree.children[0])
            kind, constant = tree.children
            return self.constant(constant, self.type(kind), _first(kind, None))
        match tree.type:
            case "INT":
                return int(tree)
            case "REAL":
                return float(tree)
            case "BOOL":
                return tree == "true"
            case "STRING":
                return self.string(tree)
            case "BYTES":
                return read_bytes(tree)
            case "NUMBERS":
                return self.convert(tree, read_numbers)
        return self.body(tree, scope)

    def body(self, token: Token, scope: _Scope | None) -> Graph:
        """The graph of an attribute; it may read what is defined so far around it. One text in several places is one graph."""
        title = self.bare(token)
        if title not in self.trees or scope is None:
            raise self.wrong(token, f"there is no graph {token}" if scope else "a tensor holds no graph")
        if title in self.open:
            raise self.wrong(token, f"the graph {token} would hold itself")
        known = self.bodies.setdefault(title, [])
        for graph, reads in known:
            if all(scope.find(name) is value for name, value in reads.items()):
                return graph
        graph = self.graph(title, scope)
        known.append((graph, {v.name: v for v in captured(graph)}))
        return graph

    def type(self, tree: _Part) -> Type:
        if isinstance(tree, Token):
            return self.convert(tree, read_tensor)
        if tree.data == "map":
            key, value = tree.children
            return Map(self.convert(key, dtype_of), self.type(value))
        element = self.type(tree.children[0])
        return Sequence(element) if tree.data == "sequence" else Optional(element)


def _children(tree: _Part) -> list[_Part]:
    return [] if tree is None else tree.children


def _first(tree: _Part, otherwise: Token | None) -> Token:
    """The first token of a tree, for its place in the text."""
    if isinstance(tree, Token):
        return tree
    for child in tree.children:
        if child is not None:
            return _first(child, otherwise)
    return otherwise or Token("NOTHING", "")
