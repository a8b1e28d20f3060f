"""The tree keeps its promises: content folders hold no code, start-up stays light, the public names are exact."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HEAVY = {
    "torch",
    "transformers",
    "peft",
    "trl",
    "datasets",
    "gradio",
    "bitsandbytes",
    "gguf",
    "pandas",
    "numpy",
    "scipy",
    "pydantic",
    "alembic",
}


def loaded_by(code: str, home: Path) -> set[str]:
    """The top-level packages that are imported after `code` ran in a fresh interpreter."""
    script = f"{code}\nimport json, sys\nsys.stderr.write('\\n' + json.dumps(sorted({{m.partition('.')[0] for m in sys.modules}})))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        cwd=home,
        env={**os.environ, "WORKBENCH_HOME": str(home)},
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stderr.splitlines()[-1]))


def command(*words: str) -> str:
    return f"from workbench.cli import run; assert run({list(words)!r}) == 0"


@pytest.mark.parametrize("folder", ["datasets", "adapters"])
def test_content_folders_hold_no_code(folder: str) -> None:
    assert (ROOT / folder).is_dir()
    assert not list((ROOT / folder).rglob("*.py")), f"{folder}/ is for content; a .py file there would shadow or collide with a library"


@pytest.mark.slow
def test_datasets_is_hugging_faces_also_in_the_checkout() -> None:
    """Found without importing it, which takes seconds: a regular package beats a folder without `__init__.py`."""
    code = "from importlib.util import find_spec; print(find_spec('datasets').origin)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60, check=True)
    assert Path(done.stdout.strip()).with_name("arrow_dataset.py").is_file()


LIGHT = {
    "the package": "import workbench",
    "the command line": "import workbench.cli",
    "--help": command("--help"),
    "base list": command("base", "list"),
    "data list": command("data", "list"),
    "jobs list": command("jobs", "list"),
    "adapter list": command("adapter", "list"),
    "adapter list --json": command("adapter", "list", "--json"),
}


@pytest.mark.parametrize("what", LIGHT)
@pytest.mark.slow
def test_start_up_loads_nothing_heavy(what: str, home: Path) -> None:
    found = loaded_by(LIGHT[what], home)
    assert "workbench" in found
    assert not found & HEAVY, f"{what} imports {sorted(found & HEAVY)}: import it inside the function that needs it"


@pytest.mark.slow
def test_listing_jobs_needs_no_sqlalchemy_on_sqlite(home: Path) -> None:
    """SQLAlchemy alone takes as long to import as a listing may take in all."""
    from workbench.db.session import dispose, transaction

    with transaction():  # makes the database
        pass
    dispose()
    found = loaded_by(command("jobs", "list"), home)
    assert "sqlalchemy" not in found


def test_public_names_are_exact() -> None:
    import workbench

    assert list(workbench.__all__) == sorted(workbench.__all__)
    for name in workbench.__all__:
        assert getattr(workbench, name) is not None
    assert set(dir(workbench)) == set(workbench.__all__)
    with pytest.raises(AttributeError, match="nonsense"):
        workbench.nonsense  # noqa: B018
    assert set(workbench.__all__) == {"AdapterRef", "BaseRef", "Recipe", "Workbench", "WorkbenchError", "__version__"}


def test_every_module_says_what_it_is_and_what_it_offers() -> None:
    for file in sorted((ROOT / "workbench").rglob("*.py")):
        if "migrations" in file.parts:
            continue
        tree = ast.parse(file.read_text(encoding="utf-8"))
        assert ast.get_docstring(tree), f"{file.relative_to(ROOT)} does not say in its first line what it is"
        offered = next((n for n in tree.body if isinstance(n, ast.Assign) and getattr(n.targets[0], "id", "") == "__all__"), None)
        if offered is None:
            continue
        names = ast.literal_eval(offered.value)
        defined = {n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef)}
        targets = [t for n in tree.body if isinstance(n, ast.Assign) for t in n.targets]
        targets += [part for t in targets if isinstance(t, ast.Tuple) for part in t.elts]
        defined |= {getattr(t, "id", "") for t in targets}
        defined |= {getattr(n.target, "id", "") for n in tree.body if isinstance(n, ast.AnnAssign)}
        lazily = any(isinstance(n, ast.FunctionDef) and n.name == "__getattr__" for n in tree.body)
        imported = {a.asname or a.name for n in tree.body if isinstance(n, ast.ImportFrom) for a in n.names}
        assert lazily or set(names) <= defined | imported, f"{file.name}: __all__ names {sorted(set(names) - defined - imported)}"
        assert len(names) == len(set(names)), f"{file.name}: a name stands twice in __all__"


def test_files_stay_readable_in_one_sitting() -> None:
    long = {
        str(file.relative_to(ROOT)): lines
        for folder in ("workbench", "ui")
        for file in (ROOT / folder).rglob("*.py")
        if (lines := len(file.read_text(encoding="utf-8").splitlines())) > 450
    }
    assert not long, f"split these: {long}"


ENVIRONMENT = {"os.environ", "os.environb", "os.getenv", "os.putenv", "os.unsetenv"}
PRINTS = {"print", "click.echo", "click.secho", "sys.stdout.write", "sys.stderr.write"}
LOGS = {"workbench/jobs/log.py", "workbench/jobs/trainer_main.py"}  # the output of their processes is a file of the job


def _dotted(node: ast.AST) -> str:
    """`a.b.c` as it is written; nothing for another expression."""
    if isinstance(node, ast.Attribute):
        return f"{start}.{node.attr}" if (start := _dotted(node.value)) else ""
    return node.id if isinstance(node, ast.Name) else ""


def names(source: str) -> set[str]:
    """The dotted names that a module speaks of, imported ones under the name of their home."""
    nodes = list(ast.walk(ast.parse(source)))
    home = {a.asname or a.name: f"{n.module}.{a.name}" for n in nodes if isinstance(n, ast.ImportFrom) for a in n.names}
    home |= {a.asname: a.name for n in nodes if isinstance(n, ast.Import) for a in n.names if a.asname}
    spoken = {name for node in nodes if (name := _dotted(node))}
    return {".".join((home.get(first, first), *rest)) for first, *rest in (name.split(".") for name in spoken)} | set(home.values())


def test_names_are_seen_however_they_are_imported() -> None:
    for source in ("import os\nos.environ['A']", "from os import environ", "from os import environ as e", "import os as o\no.getenv('A')"):
        assert names(source) & ENVIRONMENT, source
    for source in ("print(1)", "import click\nclick.echo('')", "from click import echo\necho('')", "import sys\nsys.stdout.write('')"):
        assert names(source) & PRINTS, source
    assert not names("'os.environ'; environ = paths.child_environment(); fingerprint(1)") & (ENVIRONMENT | PRINTS)


def test_only_paths_reads_the_environment_and_only_the_command_line_prints() -> None:
    reads, prints = set(), set()
    for file in [*(ROOT / "workbench").rglob("*.py"), *(ROOT / "ui" / "workbench_ui").rglob("*.py")]:
        path, spoken = str(file.relative_to(ROOT)), names(file.read_text(encoding="utf-8"))
        if spoken & ENVIRONMENT:
            reads.add(path)
        if spoken & PRINTS and not path.startswith("workbench/cli/"):
            prints.add(path)
    assert reads == {"workbench/paths.py"}, "paths.py reads the environment, for all"
    assert prints == LOGS, "workbench/cli prints, for all"
