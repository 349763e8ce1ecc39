"""Imports point one way: a module imports its own folder or a lower level, never up or sideways.

The table is that of AGENTS.md. A new module fails here until it has a line; cli.py is the top, so
what its verbs import inside functions is always allowed.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "genac"

# A name is a folder or a module of genac; modules of one folder may import each other.
LEVELS = {
    "types": 0,
    "config": 0,
    "seeding": 0,
    "prefixes": 0,
    "hosts": 0,
    "pieces": 0,
    "reach": 0,
    "client": 0,
    "tasks": 1,
    "ops": 1,
    "runs": 1,
    "native": 1,
    "endpoint": 2,
    "ui": 2,
    "models": 2,
    "states": 2,
    "credit": 2,
    "engines": 3,
    "batching": 3,
    "learner": 4,
    "hardware": 4,
    "runtime": 5,
    "rollout": 6,
    "checkpoint": 6,
    "distributed": 6,
    "critics": 7,
    "evals": 8,
    "scoring": 8,
    "search": 8,
    "hub": 8,
    "stages": 9,
    "service": 9,
    "serving": 10,
    "integrations": 10,
    "commands": 10,
    "trainer": 10,
    "cli": 11,
    "__main__": 12,
}
# A trajectory draws itself in a notebook; what draws it is imported when it does.
UPWARD = {(Path("runs/trajectory.py"), "genac.ui.transcript")}
LIGHT = ("types", "config", "seeding", "prefixes", "endpoint", "tasks", "runs", "ui", "client")
HEAVY = {"torch", "transformers", "ray", "vllm", "wandb", "matplotlib"}

MODULES = sorted(p.relative_to(PACKAGE) for p in PACKAGE.rglob("*.py"))
INNER = [m for m in MODULES if m != Path("__init__.py")]  # its names are loaded on first use


def unit(dotted: str) -> str:
    """'genac.stages.loop' -> 'stages'; 'genac.types' -> 'types'."""
    return dotted.split(".")[1]


def dotted(module: Path) -> str:
    parts = module.with_suffix("").parts
    return ".".join(("genac", *(p for p in parts if p != "__init__")))


def imports(module: Path, *, at_load: bool = False) -> Iterator[str]:
    """Absolute names that a module imports; `at_load` leaves out those inside functions."""
    tree = ast.parse((PACKAGE / module).read_text())
    for node in top_level(tree) if at_load else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import; write the whole name"
            base = node.module or ""
            whole = [f"{base}.{alias.name}" for alias in node.names]
            yield from (name if is_module(name) else base for name in whole)


def top_level(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node
            yield from top_level(node)


def is_module(name: str) -> bool:
    parts = name.split(".")
    if parts[0] != "genac" or len(parts) == 1:
        return False
    path = PACKAGE.joinpath(*parts[1:])
    return path.is_dir() or path.with_suffix(".py").exists()


@pytest.mark.parametrize("module", INNER, ids=str)
def test_module_imports_its_own_folder_or_lower(module: Path) -> None:
    own = unit(dotted(module))
    assert own in LEVELS, f"give {own} a level in {__file__}"
    for name in imports(module):
        if name.split(".")[0] != "genac":
            continue
        assert name != "genac", f"{module} imports the package itself: import the module instead"
        other = unit(name)
        assert other in LEVELS, f"{module} imports {name}, which has no level in {__file__}"
        allowed = other == own or LEVELS[other] < LEVELS[own] or (module, name) in UPWARD
        assert allowed, f"{module} (level {LEVELS[own]}) imports {name} (level {LEVELS[other]})"


def test_modules_of_a_folder_import_each_other_without_a_cycle() -> None:
    edges = {dotted(m): [n for n in imports(m, at_load=True) if is_module(n)] for m in INNER}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"import cycle: {' -> '.join((*path, name))}"
        if name not in done:
            for other in edges.get(name, ()):
                visit(other, (*path, name))
            done.add(name)

    for name in edges:
        visit(name, ())


def test_tasks_and_run_folder_need_no_torch() -> None:
    for module in INNER:
        if unit(dotted(module)) in LIGHT:
            result = {name.split(".")[0] for name in imports(module, at_load=True)} & HEAVY
            assert not result, f"{module} imports {result} when it is loaded"


@pytest.mark.parametrize(
    "statement",
    ["import genac", "import genac.cli", "import genac.runs.store", "import genac.client"],
)
def test_imports_are_light(statement: str) -> None:
    code = f"{statement}; import sys; print(*sorted(set(sys.modules) & {HEAVY!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_lazy_names_exist() -> None:
    import genac

    assert all(getattr(genac, name) is not None for name in genac.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        genac.no_such_name  # noqa: B018
