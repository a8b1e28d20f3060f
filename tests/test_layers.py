"""No circles among our modules: whoever reads one need not read it to understand what it stands on.

An import inside a function counts (it hides a circle, it does not open one); one for annotations alone does not.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

HERE = Path(__file__).parents[1]
ROOTS = {"workbench": HERE / "workbench", "workbench_ui": HERE / "ui" / "workbench_ui", "benchmarks": HERE / "benchmarks"}


def modules(roots: Mapping[str, Path]) -> dict[str, Path]:
    """Every module by its dotted name."""
    found = {}
    for package, root in roots.items():
        for file in sorted(root.rglob("*.py")):
            parts = file.relative_to(root).with_suffix("").parts
            found[".".join((package, *parts)).removesuffix(".__init__")] = file
    return found


def imports(module: str, file: Path, known: Mapping[str, Path]) -> set[str]:
    """The known modules that `module` imports while it runs, wherever in it the import stands."""
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    wanted: set[str] = set()
    for node in _running(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            wanted |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*above, *filter(None, [node.module])])
            wanted |= {inner if (inner := f"{source}.{alias.name}") in known else source for alias in node.names}
    return {name for name in wanted if name in known} - {module}


def _running(node: ast.AST) -> Iterator[ast.AST]:
    """Every node but those under `if TYPE_CHECKING:`."""
    yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            for other in child.orelse:
                yield from _running(other)
        else:
            yield from _running(child)


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """The groups of two and more modules that reach one another (strongly connected components, after Tarjan), sorted."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    groups: list[list[str]] = []

    def visit(name: str) -> None:
        order[name] = lowest[name] = len(order)
        stack.append(name)
        for other in sorted(graph[name]):
            if other not in order:
                visit(other)
                lowest[name] = min(lowest[name], lowest[other])
            elif other in stack:
                lowest[name] = min(lowest[name], order[other])
        if lowest[name] == order[name]:
            group = [stack.pop()]
            while group[-1] != name:
                group.append(stack.pop())
            groups.append(sorted(group))

    for name in graph:
        if name not in order:
            visit(name)
    return sorted(group for group in groups if len(group) > 1)


def test_a_circle_is_seen_wherever_the_import_stands(tmp_path: Path) -> None:
    sources = {
        "a": "from made.b import x\n",
        "b": "def late():\n    from made import c\n",
        "c": "if True:\n    from . import a\n",
        "d": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from made import e\n",
        "e": "import made.d\n",
    }
    for name, text in sources.items():
        (tmp_path / f"{name}.py").write_text(text)
    known = modules({"made": tmp_path})
    assert circles({name: imports(name, file, known) for name, file in known.items()}) == [["made.a", "made.b", "made.c"]]


@pytest.mark.slow
def test_our_modules_form_no_circle() -> None:
    known = modules(ROOTS)
    graph = {name: imports(name, file, known) for name, file in known.items()}
    assert sum(map(len, graph.values())) > 300  # it does see the imports
    found = circles(graph)
    told = [" - ".join(f"{name} -> {', '.join(sorted(graph[name] & set(group)))}" for name in group) for group in found]
    assert not found, "modules that import one another: move what they share below both\n  " + "\n  ".join(told)
