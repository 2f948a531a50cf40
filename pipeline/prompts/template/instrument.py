"""Inserts a counting filter into a template wherever Jinja has no hook: loops, `~` and comparisons."""

from __future__ import annotations

from typing import cast

from jinja2 import nodes
from jinja2.visitor import NodeTransformer

# Names of filters that no template can write.
LOOP, WEIGHED = "promptmill loop", "promptmill weighed"


def instrument(tree: nodes.Template) -> nodes.Template:
    """Return the tree with a counting call at each loop, concatenation and comparison."""
    result: nodes.Template = _Instrument().visit(tree)
    return result


def restored(tree: nodes.Template, mark: str) -> nodes.Template:
    """Return the tree with carriage returns in place of `mark`; an empty `mark` stands for none."""
    if mark:
        for data in tree.find_all(nodes.TemplateData):
            data.data = data.data.replace(mark, "\r")
        for constant in tree.find_all(nodes.Const):
            if isinstance(constant.value, str):
                constant.value = constant.value.replace(mark, "\r")
    return tree


class _Instrument(NodeTransformer):
    def visit_Call(self, node: nodes.Call) -> nodes.Node:
        callee = node.node
        if isinstance(callee, nodes.Getattr):  # a method
            callee.node = self.visit(callee.node)
            node.node = nodes.Name("", "load")
            self.generic_visit(node)
            node.node = callee
        else:
            self.generic_visit(node)
        return node

    def visit_Getattr(self, node: nodes.Getattr) -> nodes.Node:
        """Make `m.items`, if it is not called, the field of that name, as `m.content` is, instead of the method of dicts."""
        self.generic_visit(node)
        name = nodes.Const(node.attr, lineno=node.lineno, environment=node.environment)
        return nodes.Getitem(node.node, name, node.ctx, lineno=node.lineno, environment=node.environment)

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = _filter(LOOP, node.iter)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _filter("join", nodes.List(node.nodes, lineno=node.lineno, environment=node.environment))

    def visit_Operand(self, node: nodes.Operand) -> nodes.Node:
        self.generic_visit(node)
        node.expr = _filter(WEIGHED, node.expr)
        return node


def _filter(name: str, node: nodes.Node) -> nodes.Filter:
    return nodes.Filter(
        cast(nodes.Expr, node), name, [], [], None, None, lineno=node.lineno, environment=node.environment
    )
