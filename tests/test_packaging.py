"""What is installed: dependencies and their pins agree, and the files that users are pointed to are there."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


@pytest.fixture(scope="module")
def project(repository: Path) -> dict[str, object]:
    return tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def pins(repository: Path) -> dict[str, str]:
    lines = (repository / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    assert len({canonicalize_name(name) for name, _ in pairs}) == len(pairs), "a package is pinned twice"
    return {canonicalize_name(name): version for name, version in pairs}


def test_constraints_hold_only_public_exact_pins(repository: Path) -> None:
    for line in (repository / "constraints.txt").read_text(encoding="utf-8").splitlines():
        assert line.startswith("#") or re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9a-z.]*", line), line


def test_each_dependency_has_a_bound_that_its_pin_satisfies(project: dict, pins: dict[str, str]) -> None:
    extras = project["optional-dependencies"]
    for line in [*project["dependencies"], *(line for lines in extras.values() for line in lines)]:
        requirement = Requirement(line)
        if requirement.name == project["name"]:
            assert requirement.extras <= extras.keys()
            continue
        assert requirement.specifier, f"{line} has no bound"
        pin = pins[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(pin), f"{line}, but {pin} is pinned"


def test_foreign_implementations_are_for_development_alone(project: dict) -> None:
    extras = project["optional-dependencies"]
    for name, lines in {"core": project["dependencies"], **extras}.items():
        if name != "dev":
            assert not {"transformers", "moshi"} & {Requirement(line).name for line in lines}


def test_a_wheel_holds_everything_that_is_read_at_run_time(repository: Path) -> None:
    from hatchling.builders.wheel import WheelBuilder

    held = {Path(file.distribution_path) for file in WheelBuilder(str(repository)).recurse_included_files()}
    package = repository / "src" / "duologue"
    read = [path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    kinds = {path.suffix for path in read}
    assert {".py", ".json", ".opus", ".safetensors", ".html", ".typed"} <= kinds
    assert {path.relative_to(repository / "src") for path in read} <= held


def test_the_readme_is_the_package_page(repository: Path, project: dict) -> None:
    if (repository / "README.md").exists():
        assert project.get("readme") == "README.md", 'add readme = "README.md" to [project] in pyproject.toml'


def test_the_example_conversation(repository: Path) -> None:
    assert (repository / "examples" / "hello.txt").read_text(encoding="utf-8").splitlines() == [
        "A: Hey, how are you doing?",
        "B: Pretty good, pretty good. How about you?",
        "A: I'm great! So happy to be speaking with you today.",
        "B: Me too! This is some cool stuff, isn't it?",
    ]
