"""The documentation is derived from the code, or tested against it."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from benchmarks import make_docs
from workbench.recipe import PRESETS, Recipe, resolve

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = dict(make_docs.commands())
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", make_docs.PAGES)
def test_generated_pages_are_up_to_date(name: str) -> None:
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    assert text == make_docs.PAGES[name](), f"docs/{name} is out of date. Run: make docs"


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_and_option_has_help(path: str) -> None:
    command = COMMANDS[path].command
    assert command.help and command.help.strip().endswith((".", "…")), f"{path} needs a sentence of help"
    for param in command.params:
        if isinstance(param, click.Option):
            assert param.help, f"{path} {param.opts[0]} needs help"


def test_every_listing_and_show_command_prints_json() -> None:
    for path, context in COMMANDS.items():
        if path.split()[-1] in {"list", "show", "check", "preview", "catalogue", "diff", "info", "doctor"}:
            assert any("--json" in p.opts for p in context.command.params), f"{path} has no --json"


def test_every_recipe_key_is_an_option_and_the_other_way_round() -> None:
    options = {p.name for p in COMMANDS["workbench train"].command.params}
    assert set(Recipe.model_fields) <= options
    own = {"words", "config", "preset", "presets", "dry_run", "no_publish", "export", "detach", "key"}
    assert options - set(Recipe.model_fields) == own


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_recipe(name: str) -> None:
    assert resolve({"base": "b@1", "dataset": "d"}, preset=name).recipe.to_yaml()


def shell_lines(text: str) -> list[str]:
    """Every line in a fenced shell block, or in `backticks`, that calls the workbench."""
    blocks = re.findall(r"```(?:sh|bash|console|shell)?\n(.*?)```", text, flags=re.DOTALL)
    lines = [line.strip().removeprefix("$ ") for block in blocks for line in block.splitlines()]
    quoted = re.findall(r"`(workbench [^`\n]+)`", text)
    return [line for line in [*lines, *quoted] if line.startswith("workbench ")]


def test_commands_named_in_the_documents_exist() -> None:
    """A README that names a command or an option that is not there is worse than none."""
    pages = [ROOT / "README.md", *(p for p in (ROOT / "docs").glob("*.md") if p.name not in make_docs.PAGES), ROOT / "CONTRIBUTING.md"]
    for page in pages:
        for line in shell_lines(page.read_text(encoding="utf-8")) if page.is_file() else []:
            assert_command(line, page.name)


def test_hints_in_the_code_name_commands_that_exist() -> None:
    verbs = "|".join(sorted({path.split()[1] for path in COMMANDS if " " in path}))
    hint = re.compile(rf"(workbench (?:{verbs}|help)\b[^\"'`\\{{}}()]*)")
    seen = set()
    for file in [*(ROOT / "workbench").rglob("*.py"), *(ROOT / "ui").rglob("*.py")]:
        for line in hint.findall(file.read_text(encoding="utf-8")):
            words = re.split(r"[.:;,]? [A-Z=→]|  |[.;,:?]( |$)", line)[0]
            assert_command(words, file.name, options=False)
            seen.add(words.split()[1])
    assert {"base", "data", "train", "jobs", "adapter", "rebase", "doctor"} <= seen, "hints of every kind were looked at"


@pytest.mark.parametrize("line", ["workbench rebase nonsense", "workbench adapter shwo a@1", "workbench data add x.csv --nmae y"])
def test_a_command_that_is_not_there_is_seen(line: str) -> None:
    with pytest.raises(AssertionError, match="there is no command|has no --nmae"):
        assert_command(line, "a page")


def assert_command(line: str, where: str, *, options: bool = True) -> None:
    path, rest = "workbench", re.sub(r"#.*", "", line).split()[1:]
    while rest and isinstance(COMMANDS[path].command, click.Group):
        deeper = f"{path} {rest[0].rstrip('.,:;')}"
        if deeper not in COMMANDS:
            assert rest[0].startswith("-") or not rest[0].isalpha(), f"{where}: there is no command '{deeper}'"
            break
        path, rest = deeper, rest[1:]
    if options:
        known = {opt.replace("_", "-") for p in COMMANDS[path].command.params for opt in [*p.opts, *p.secondary_opts]}
        for word in rest:
            if word.startswith("--"):
                option = word.partition("=")[0].replace("_", "-").rstrip(".,:;")
                assert option in known | {"--help"}, f"{where}: '{path}' has no {word}"


# ---------------------------------------------------------------- docs/json.md


def json_page() -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """The page's tables: command -> nothing yet, and shape -> its keys."""
    shapes: dict[str, set[str]] = {}
    for section in (ROOT / "docs" / "json.md").read_text(encoding="utf-8").split("\n## ")[1:]:
        shapes[section.splitlines()[0]] = set(re.findall(r"^\| `(\w+)` \|", section, flags=re.MULTILINE))
    intro = (ROOT / "docs" / "json.md").read_text(encoding="utf-8").split("\n## ")[0]
    listed = {
        m[0]: set(re.findall(r"\(#([\w-]+)\)", m[1])) for m in re.findall(r"^\| `(workbench [\w -]+)` \|(.*)$", intro, flags=re.MULTILINE)
    }
    return listed, shapes


def test_every_json_option_is_on_the_json_page() -> None:
    listed, shapes = json_page()
    have = {path for path, context in COMMANDS.items() if any("--json" in p.opts for p in context.command.params)}
    assert {path for path in listed if " --" not in path} == have
    linked = {link for links in listed.values() for link in links}
    assert linked <= {name.replace(" ", "-") for name in shapes}


@pytest.mark.parametrize("shape", ["base", "dataset", "job", "attempt", "progress", "adapter", "diagnosis", "leftover"])
def test_json_keys_of_records_are_documented(shape: str) -> None:
    import dataclasses

    from workbench import doctor, prune, records

    home = {"diagnosis": doctor, "leftover": prune}.get(shape, records)
    record = getattr(home, shape.capitalize())
    assert json_page()[1][shape] == {f.name for f in dataclasses.fields(record)}


def test_json_keys_of_scores_are_documented() -> None:
    from workbench.evidence import summary
    from workbench.records import ItemScore

    items = [ItemScore(id, nll=1.0, tokens=3, bytes=5, exact=False) for id in "ab"]
    assert json_page()[1]["scores"] == set(summary(items, items).as_dict())


def test_json_keys_of_bases_are_documented() -> None:
    import dataclasses

    from workbench.bases.catalogue import Catalogue
    from workbench.bases.lock import Lock
    from workbench.rebase.diff import BaseDiff

    assert json_page()[1]["lock"] == {f.name for f in dataclasses.fields(Lock)} - {"sha256", "tensors"}
    assert json_page()[1]["difference"] == {f.name for f in dataclasses.fields(BaseDiff)} | {"identical", "summary"}
    assert all(json_page()[1]["catalogue entry"] == set(entry.as_dict()) for entry in Catalogue.load())
