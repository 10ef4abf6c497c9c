"""`duologue doctor`."""

import importlib.metadata
from pathlib import Path

import pytest

from duologue.cli import doctor
from tests.cli.conftest import Run
from tests.cli.helpers import json_of, lines_of

REQUIRES = ["numpy>=1.26", "Pillow_Missing>=1; extra == 'dev'", "jiwer>=999 ; extra == 'eval'", "torch (>=2.6)"]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the package were installed with its requirements."""
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: REQUIRES)


@pytest.fixture
def bundled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As if the package came with a model of 2 kB."""
    folder = tmp_path / "pretrained" / "parlor"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"x" * 2000)
    monkeypatch.setattr(doctor, "_pretrained_folder", lambda: folder.parent)
    return folder


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_secret")


def test_the_report(run: Run, installed: None, bundled: Path, token: None, own_home: Path) -> None:
    result = run("doctor")
    assert result.exit_code == 0 and result.stderr == ""
    lines = lines_of(result.stdout)
    topics = {line[8:].split("  ")[0].strip(): line for line in lines}
    assert {"python", "packages", "device", "threads", "bundled model", "hub cache", "free disk"} <= topics.keys()
    assert "parlor (2 kB)" in topics["bundled model"] and topics["bundled model"].startswith("ok ")
    assert "numpy" in topics["packages"] and "torch" in topics["packages"]
    assert topics["extra dev"].startswith("note") and "Pillow_Missing" in topics["extra dev"]
    assert topics["extra eval"].startswith("note") and "jiwer" in topics["extra eval"]
    assert "mp3" in topics["audio files"] and "cpu" in topics["device"]
    assert str(own_home / "voices") in topics["your voices"]
    assert "hf_secret" not in result.output


def test_json(run: Run, installed: None, bundled: Path, token: None, own_home: Path) -> None:
    (own_home / "voices").mkdir(parents=True)
    (own_home / "voices" / "carl.safetensors").write_bytes(b"")
    result = run("doctor", "--json")
    value = json_of(result.stdout)
    assert result.exit_code == 0 and value["problems"] == []
    assert value["bundled model"] == {"parlor": 2000} and value["hub login"] == {"token": True}
    assert value["your voices"] == {"folder": str(own_home / "voices"), "names": ["carl"]}
    assert value["extra dev"]["missing"] == ["Pillow_Missing"]
    assert "gated access" not in value and "hf_secret" not in result.output


def test_what_every_use_needs(run: Run, monkeypatch: pytest.MonkeyPatch, bundled: Path) -> None:
    (bundled / "model.safetensors").unlink()
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: ["numpy>=999", "nosuchthing>=1"])
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    result = run("doctor", "--json")
    assert result.exit_code == 1
    problems = json_of(result.stdout)["problems"]
    assert len(problems) == 2 and "numpy is" in problems[0] and "nosuchthing is missing" in problems[0]
    assert "--model" in problems[1]
    assert "broken  packages" in run("doctor").stdout


def test_a_library_that_does_not_load(run: Run, monkeypatch: pytest.MonkeyPatch, bundled: Path) -> None:
    load = importlib.import_module

    def refuse(name: str, package: str | None = None) -> object:
        if name == "numpy":
            raise OSError("libsomething.so is missing")
        return load(name, package)

    monkeypatch.setattr(importlib.metadata, "requires", lambda name: ["numpy>=1"])
    monkeypatch.setattr(importlib, "import_module", refuse)
    problems = json_of(run("doctor", "--json").stdout)["problems"]
    assert problems == ["numpy does not load: OSError: libsomething.so is missing; reinstall with: "
                        "pip install --upgrade duologue"]  # fmt: skip


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (None, "granted"),
        ("GatedRepoError", "gated"),
        ("RepositoryNotFoundError", "no login"),
        ("OSError", "unreachable"),
    ],
)
def test_gated_access(run: Run, monkeypatch: pytest.MonkeyPatch, bundled: Path, error: str | None, state: str) -> None:
    from huggingface_hub import HfApi, errors

    asked: list[str] = []

    def check(self: HfApi, repo_id: str) -> None:
        asked.append(repo_id)
        if error is not None:
            kind = getattr(errors, error, OSError)
            raise kind.__new__(kind)  # whose constructor wants the response of a server

    monkeypatch.setattr(HfApi, "auth_check", check)
    value = json_of(run("doctor", "--json", "--online").stdout)
    assert asked == ["sesame/csm-1b"] and value["gated access"] == state


def test_offline_by_default(run: Run, monkeypatch: pytest.MonkeyPatch, bundled: Path) -> None:
    import socket

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert run("doctor").exit_code == 0


def test_the_hub_cache(run: Run, monkeypatch: pytest.MonkeyPatch, bundled: Path, tmp_path: Path) -> None:
    blob = tmp_path / "cache" / "models--sesame--csm-1b" / "blobs" / "x"
    blob.parent.mkdir(parents=True)
    blob.write_bytes(b"x" * 1234)
    (blob.parent / "link").symlink_to(blob)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    value = json_of(run("doctor", "--json").stdout)["hub cache"]
    assert (value["bytes"], value["models"]) == (1234, ["sesame/csm-1b"])


def test_sizes() -> None:
    assert [doctor.format_size(size) for size in (0, 999, 1000, 12_345_678, 3.2e9, 5e12)] == [
        "0 B",
        "999 B",
        "1 kB",
        "12.3 MB",
        "3.2 GB",
        "5.0 TB",
    ]


def test_extras_are_those_of_the_package(repository: Path) -> None:
    import tomllib

    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert list(doctor.EXTRAS) == list(project["optional-dependencies"])
