"""Imports go one way: reads the import statements of every source file and holds them against the layers.

The rules are those of the architecture; `MAY_IMPORT` is their only copy in code. Imports inside functions and under
`TYPE_CHECKING` count like any other: a late import is still a dependency.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = "duologue"
MAX_LINES = 520  # "about 500"

# Each part of the package, and the parts that it may import besides itself.
BASE = {"errors", "config"}
SIGNAL = {"audio", "text", "frames", "nn"}
NETWORKS = {"codec", "model"}
BELOW_ENGINE = BASE | SIGNAL | NETWORKS | {"pretrained", "checkpoints"}
BELOW_LEAVES = BELOW_ENGINE | {"engine", "__init__"}
LEAVES = {"data", "train", "eval", "serve", "agent"}
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "config": {"errors"},  # it has to say what is wrong with a file
    "pretrained": set(),
    **{part: BASE for part in SIGNAL},
    **{part: BASE | SIGNAL for part in NETWORKS},
    "checkpoints": BELOW_ENGINE,
    "engine": BELOW_ENGINE,
    "__init__": BELOW_ENGINE | {"engine"},  # the public names
    "__main__": {"cli"},
    **{part: BELOW_LEAVES for part in LEAVES},
    "cli": BELOW_LEAVES | LEAVES,
}

# Wires leaves together, and is itself imported inside functions.
LOADED_LATE = {"cli/tuning.py"}

OUTSIDE_THE_PACKAGE = {"recipes", "benchmarks", "tests"}
ONLY_IN_TESTS_AND_BENCHMARKS = {"transformers", "moshi"}

# How a step is run fast is the business of the engine and of training alone.
MAY_ACCELERATE = {"engine", "train"}
ACCELERATORS = (
    "torch.compile",
    "torch._dynamo",
    "torch._inductor",
    "torch.ao",
    "torch.quantization",
    "torch.cuda.CUDAGraph",
    "torch.cuda.graph",
    "torch.cuda.make_graphed_callables",
    "torchao",
)


@dataclass(frozen=True)
class Import:
    target: str  # dotted, as imported: "duologue.codec.mimi" or "torch.nn"
    line: int
    at_module_level: bool


def is_for_types_only(node: ast.AST) -> bool:
    """Whether it is an `if TYPE_CHECKING:`, whose imports no program runs."""
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imports_of(tree: ast.Module, package: str) -> Iterator[Import]:
    """Every import in a module; `package` is the dotted package it lies in, which relative imports start from."""
    late = {
        id(inner)
        for outer in ast.walk(tree)
        if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or is_for_types_only(outer)
        for inner in ast.walk(outer)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                base = ".".join([*parents[: len(parents) - node.level + 1], *base.split(".")]).rstrip(".")
            targets = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for target in targets:
            yield Import(target, node.lineno, id(node) not in late)


def part_of(target: str) -> str | None:
    """The part of the package that an import reaches, `__init__` for a public name, None for foreign packages."""
    root, _, rest = target.partition(".")
    if root != PACKAGE:
        return None
    name = rest.split(".")[0]
    return name if name in MAY_IMPORT else "__init__"


def dotted_names(tree: ast.Module) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            try:
                yield ast.unparse(node), node.lineno
            except RecursionError:  # pragma: no cover
                continue


def violations(source: str, path: str) -> list[str]:
    """What a file of the package does against the rules; `path` is relative to `src/duologue`."""
    tree = ast.parse(source)
    parts = Path(path).with_suffix("").parts
    part = parts[0]
    if part not in MAY_IMPORT:
        return [f"{path}: {part} is no part of the architecture; give it a layer in MAY_IMPORT"]
    found = []
    imports = list(imports_of(tree, ".".join([PACKAGE, *parts[:-1]])))
    for imported in imports:
        where = f"{path}:{imported.line}: imports {imported.target}"
        root = imported.target.split(".")[0]
        if root in OUTSIDE_THE_PACKAGE:
            found.append(f"{where}, which is not in the package")
        if root in ONLY_IN_TESTS_AND_BENCHMARKS:
            found.append(f"{where}, which only tests and benchmarks may")
        target = part_of(imported.target)
        if target is None or target == part:
            continue
        if target not in MAY_IMPORT[part]:
            found.append(f"{where}, and {part} may not import {target}")
        elif part == "cli" and target in LEAVES and imported.at_module_level and path not in LOADED_LATE:
            found.append(f"{where} at module level; the command line imports the leaves inside its functions")
    if part not in MAY_ACCELERATE:
        names = [(imported.target, imported.line) for imported in imports] + list(dotted_names(tree))
        for name, line in names:
            if any(name == accelerator or name.startswith(accelerator + ".") for accelerator in ACCELERATORS):
                found.append(f"{path}:{line}: {name} belongs to the engine and to training")
    lines = source.count("\n")
    if lines > MAX_LINES:
        found.append(f"{path}: {lines} lines, at most about 500: split it")
    return found


def python_files(folder: str) -> list[Path]:
    return sorted((REPOSITORY / folder).rglob("*.py"))


@pytest.mark.parametrize("path", python_files(f"src/{PACKAGE}"), ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_source_file_keeps_to_its_layer(path: Path) -> None:
    found = violations(path.read_text(encoding="utf-8"), path.relative_to(REPOSITORY / "src" / PACKAGE).as_posix())
    assert not found, "\n".join(found)


@pytest.mark.parametrize("path", python_files("recipes"), ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_recipe_uses_no_foreign_implementation(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    package = ".".join(path.relative_to(REPOSITORY).parent.parts)
    roots = {imported.target.split(".")[0] for imported in imports_of(ast.parse(source), package)}
    assert not roots & (ONLY_IN_TESTS_AND_BENCHMARKS | {"tests", "benchmarks"})
    assert source.count("\n") <= MAX_LINES


def test_layers_have_no_cycle() -> None:
    ranks: dict[str, int] = {}
    remaining = dict(MAY_IMPORT)
    while remaining:
        ready = [part for part, below in remaining.items() if below - {part} <= ranks.keys()]
        assert ready, f"these parts import each other in a ring: {sorted(remaining)}"
        for part in ready:
            ranks[part] = len(ranks)
            del remaining[part]
    assert ranks["codec"] < ranks["checkpoints"] < ranks["engine"] < ranks["train"] < ranks["cli"]


@pytest.mark.parametrize(
    ("path", "source", "message"),
    [
        ("errors.py", "import duologue.config", "errors may not import config"),
        ("text/tokenizer.py", "from duologue.audio import read", "text may not import audio"),
        ("codec/mimi.py", "from duologue.model import csm", "codec may not import model"),
        ("codec/mimi.py", "from ..model import csm", "codec may not import model"),
        ("codec/mimi.py", "from .. import model", "codec may not import model"),
        ("codec/mimi.py", "from duologue import Segment", "codec may not import __init__"),
        ("model/csm.py", "def f():\n    import duologue.engine.session", "model may not import engine"),
        ("train/loop.py", "from duologue.data import turns", "train may not import data"),
        ("engine/session.py", "from duologue.serve import app", "engine may not import serve"),
        ("cli/main.py", "from duologue.train import loop", "at module level"),
        ("engine/session.py", "from recipes.parlor import config", "not in the package"),
        ("checkpoints/io.py", "from transformers import CsmModel", "only tests and benchmarks may"),
        ("model/csm.py", "import torch\nf = torch.compile(len)", "torch.compile belongs to the engine"),
        ("nn/attention.py", "from torch.cuda import CUDAGraph", "belongs to the engine"),
        ("bench/speed.py", "", "no part of the architecture"),
        ("audio.py", "\n" * (MAX_LINES + 1), "split it"),
    ],
)
def test_a_breach_is_found(path: str, source: str, message: str) -> None:
    assert any(message in found for found in violations(source, path))


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("__init__.py", "from duologue.engine.generator import Generator"),
        ("codec/mimi.py", "import torch\nfrom duologue.nn.attention import Attention\nfrom .seanet import Encoder"),
        ("checkpoints/io.py", "from duologue.codec.mimi import Mimi\nfrom duologue.model.csm import CSM"),
        ("engine/backends.py", "import torch\nf = torch.compile(len)"),
        ("train/loop.py", "import duologue\nfrom duologue import engine"),
        ("cli/train.py", "def run():\n    from duologue.train import loop\n    from duologue.data import turns"),
    ],
)
def test_what_the_layers_allow_passes(path: str, source: str) -> None:
    assert violations(source, path) == []
