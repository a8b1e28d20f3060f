"""The sentences that the engine writes and a page may show, read from the code, beside the tables that say them in other words.

python -m benchmarks.sentences      # what `workbench/strings/said.*.json` lack, as lines to fill in, and what is gone from the code
"""

from __future__ import annotations

import ast
import inspect
import itertools
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import yaml

import workbench_ui
from workbench import errors
from workbench.recipe import PRESETS

__all__ = ["ENGINE", "in_code", "lacking", "needed", "table", "unknown"]

ENGINE, PAGES = Path(errors.__file__).parent, Path(workbench_ui.__file__).parent

# Modules whose sentences no page shows, and why.
SHELL_ONLY = {
    "cli/": "the words of the shell",
    "doctor.py": "workbench doctor",
    "prune.py": "workbench prune",
    "rebase/diff.py": "workbench base diff",
    "hf/export_trl.py": "workbench train --export",
    "hf/merge.py": "workbench adapter export --merged",
    "registry/archive.py": "workbench adapter import",
    "registry/card.py": "an adapter's README.md, which is in English",
    "registry/export.py": "workbench adapter export; the pages name no path",
    "registry/imports.py": "workbench adapter import",
    "rebase/recoordinate.py": "workbench rebase selftest",
    "rebase/writing.py": "workbench rebase selftest",
    "jobs/rebase_selftest.py": "workbench rebase selftest",
    "ui/app.py": "the shell that starts the server",
}
# Of these a page shows the errors and nothing else: what a check found is told from its numbers, not from its sentences.
ERRORS_ONLY = (
    "rebase/",
    "db/",
    "bases/catalogue.py",
    "bases/configuration.py",
    "data/columns.py",
    "errors.py",
    "evidence.py",
    "identity.py",
)

# Said by the pages under keys of their own, or by nobody.
_OTHERWISE = {preset.when for preset in PRESETS.values()}
_OTHERWISE |= {
    "module 'workbench' has no attribute {}",
    "Two words, 2 numbers: 10",  # a text for tokenizers
    "workbench test part 1",  # a salt
    "{} rows: {} problems, {} warnings",  # str() of a report
    "{}.{} may not come from a child",
    "{} rows from `{}`; {} of them are the frozen test part, never trained on.",  # a dataset's README.md
    "No scorer: answers are judged by how well they are predicted.",
    "- left out: {} rows ({})",
}
_CODE = re.compile(
    r"SELECT |UPDATE |INSERT |FROM |WHERE |%Y|import |\{\{|<\||\[\^|python -m |job \{\}: |(\w+ )*\w+_\w+ \w+_\w+( \w+)*$|AND name"
)
_WORDS = 3  # a text of so many words is a sentence, or a piece of one
_ERRORS = {name for name, value in vars(errors).items() if inspect.isclass(value) and issubclass(value, errors.WorkbenchError)}
_COMMAND = re.compile(r"\bworkbench (base|data|adapter|jobs|train|rebase|ui|doctor|prune)\b|--[a-z]")


@cache
def in_code(words: int = _WORDS) -> dict[str, str]:
    """Sentence (values as `{}`) -> where it stands; with fewer `words`, also what may be a piece of one and may be anything else."""
    told: dict[str, str] = {}
    files = {file.relative_to(ENGINE).as_posix(): file for file in ENGINE.rglob("*.py")}
    files |= {f"ui/{file.relative_to(PAGES).as_posix()}": file for file in PAGES.rglob("*.py")}
    for name, file in sorted(files.items()):
        if not name.startswith(tuple(SHELL_ONLY)):
            only_errors = name.startswith("ui/") or (name.startswith(ERRORS_ONLY) and words == _WORDS)
            for text, line in _Texts(ast.parse(file.read_text(encoding="utf-8")), words, only_errors).all():
                for said in filter(None, (part.strip() for part in text.split("\n"))):
                    if re.search(r"[A-Za-z]{2}", said.replace("{}", "")) and said not in _OTHERWISE:
                        told.setdefault(said, f"{name}:{line}")
    licenses = yaml.safe_load((ENGINE / "bases" / "catalogue.yaml").read_text(encoding="utf-8"))["licenses"]
    return told | {text: "bases/catalogue.yaml" for license in licenses.values() for text in license["obligations"]}


class _Texts:
    """The texts of one module: messages and hints of errors whole, other strings where they have enough words."""

    def __init__(self, tree: ast.Module, words: int, only_errors: bool) -> None:
        self.tree, self.words, self.only_errors = tree, words, only_errors
        self.done = {id(part) for node in ast.walk(tree) if _is_unsaid(node) for part in ast.walk(node)}

    def all(self) -> Iterator[tuple[str, int]]:
        for node in ast.walk(self.tree):  # from the outside in, so that a piece comes after its whole
            if id(node) in self.done:
                continue
            if isinstance(node, ast.Call) and _called(node) in _ERRORS:
                yield from self._raised(node)
            elif not self.only_errors and _is_text(node):
                yield from self._whole(node)

    def _raised(self, node: ast.Call) -> Iterator[tuple[str, int]]:
        given = {keyword.arg: keyword.value for keyword in node.keywords}
        if "command" in given:  # NotFound.of
            kind = "".join(_readings(node.args[0]))
            yield from ((text, node.lineno) for text in (f"No {kind} named '{{}}'. {{}}", f"There is no {kind} yet.", "You have: {}."))
            yield from ((f"List them: {text}", node.lineno) for text in _readings(given["command"]))
            self._finish(node.args[0], given["command"])
        for value in [*node.args[: "command" not in given], *(given[name] for name in ("message", "hint") if name in given)]:
            yield from ((text, value.lineno) for text in _readings(value))
            self._finish(value)

    def _whole(self, node: ast.expr) -> Iterator[tuple[str, int]]:
        for text in _readings(node):
            said = re.findall(r"[A-Za-z]{2,}", text.replace("{}", " "))
            if len(said) >= self.words and not _CODE.match(text.strip()) and (" " in text.strip() or self.words < _WORDS):
                yield text, node.lineno
        self._finish(node)

    def _finish(self, *nodes: ast.expr) -> None:
        """Their own text is read; what stands in their values is not."""
        for node in nodes:
            self.done.add(id(node))
            if isinstance(node, ast.BinOp):
                self._finish(node.left, node.right)
            elif isinstance(node, ast.IfExp):
                self._finish(node.body, node.orelse)
            elif isinstance(node, ast.JoinedStr):
                self.done |= {id(part) for part in node.values if isinstance(part, ast.Constant)}
                self.done |= {id(part.format_spec) for part in node.values if isinstance(part, ast.FormattedValue)}


def _is_text(node: ast.AST) -> bool:
    if isinstance(node, ast.BinOp):
        return isinstance(node.op, ast.Add) and (_is_text(node.left) or _is_text(node.right))
    if isinstance(node, ast.IfExp):
        return _is_text(node.body) and _is_text(node.orelse)
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def _is_unsaid(node: ast.AST) -> bool:
    """Docstrings, patterns, and the help of recipe keys, which `field.*` of the string tables says."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return True
    return isinstance(node, ast.Call) and _called(node) in {"_f", "compile", "getattr"}


def _called(node: ast.Call) -> str:
    """The name of what is called; of a class, where one of its other constructors is."""
    names = ast.unparse(node.func).split(".")
    return names[-2] if len(names) > 1 and names[-2] in _ERRORS else names[-1]


def _readings(node: ast.expr) -> list[str]:
    """Every text that an expression can be, as far as it is written there."""
    if isinstance(node, ast.IfExp):
        return _readings(node.body) + _readings(node.orelse)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return ["".join(pair) for pair in itertools.product(_readings(node.left), _readings(node.right))]
    if isinstance(node, ast.JoinedStr):
        return ["".join(_readings(part)[0] if isinstance(part, ast.Constant) else "{}" for part in node.values)]
    if isinstance(node, ast.Constant):
        return [node.value.replace("{", "{{").replace("}", "}}")] if isinstance(node.value, str) else [""]
    return ["{}"]


def table(lang: str) -> dict[str, str]:
    """The entries of one language."""
    return dict(json.loads((ENGINE / "strings" / f"said.{lang}.json").read_text(encoding="utf-8")))


def needed() -> dict[str, dict[str, str]]:
    """Language -> the sentences that need an entry, and where they stand; in English those that name a command."""
    told = in_code()
    return {"zh": told, "en": {text: place for text, place in told.items() if _COMMAND.search(text)}}


def lacking() -> dict[str, dict[str, str]]:
    """Language -> what has no entry, and where it stands."""
    return {lang: {text: place for text, place in told.items() if text not in table(lang)} for lang, told in needed().items()}


def unknown() -> dict[str, set[str]]:
    """Language -> entries whose sentence is nowhere in the code. Those of libraries and of the system, and lists, are not looked for."""
    told = in_code(words=1)
    return {lang: {text for text in table(lang) if text not in told and not _BORROWED.match(text)} for lang in ("zh", "en")}


# Written by pydantic or by the system, or joined from the items of a list.
_BORROWED = re.compile(
    r"Input should be |Question = |No such file or directory|Permission denied|No space left on device|Is a directory|"
    r"Expecting |Unterminated string |Extra data|\{\} or \{\}|\{\}; \{\}|\{\} adapters: |\{\}: \{\}$"
)

if __name__ == "__main__":
    for lang, told in lacking().items():
        for text, place in sorted(told.items(), key=lambda item: item[1]):
            print(f"{lang}  {place:<32} {json.dumps(text, ensure_ascii=False)}: ")
    for lang, texts in unknown().items():
        for text in sorted(texts):
            print(f"{lang}  {'gone from the code':<32} {json.dumps(text, ensure_ascii=False)}")
