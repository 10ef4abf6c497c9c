"""`duologue doctor`: what is here, what is missing, and what that means."""

import importlib
import importlib.metadata
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from duologue.cli import options, terminal

MIN_PYTHON: Final = (3, 11)
GATED_REPOSITORY: Final = "sesame/csm-1b"

# What each extra of pyproject.toml is for.
EXTRAS: Final = {
    "train": "training the codec and the speech model",
    "prepare": "recordings to turns with text, ready for training",
    "diarize": "telling the voices of a recording apart",
    "lora": "fine-tuning by adapters",
    "ray": "preparing recordings on a Ray cluster",
    "eval": "measuring word errors, voice similarity and sound quality",
    "render": "more speech for training, spoken by Piper",
    "dev": "the tests, which compare with other implementations",
}

# Import names of required distributions where they differ.
_IMPORT_NAMES: Final = {"pyyaml": "yaml", "huggingface-hub": "huggingface_hub", "espeakng-loader": "espeakng_loader"}

_OK, _NOTE, _BROKEN = "ok", "note", "broken"


@dataclass(frozen=True)
class Finding:
    """One line of the report. `state`: ok, note (something is absent that not everybody needs) or broken."""

    topic: str
    state: str
    text: str
    data: Any


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("doctor")(doctor)


def doctor(
    online: Annotated[
        bool,
        typer.Option("--online", help=f"Also ask the hub whether {GATED_REPOSITORY} may be downloaded from here."),
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Show what is installed and what works here: the first thing to run, and to add to a bug report.

    Without --online the network is left alone. Access tokens are never printed.
    The exit code is 0 unless something that every use needs is broken.

    Examples:

      duologue doctor
      duologue doctor --online
      duologue doctor --json
    """
    findings = []
    with terminal.progress(not as_json) as show:
        for finding in examine(online):
            findings.append(finding)
            show(f"{finding.topic} …")
    if as_json:
        payload: dict[str, Any] = {finding.topic: finding.data for finding in findings}
        payload["problems"] = [finding.text for finding in findings if finding.state == _BROKEN]
        terminal.emit_json(payload, sys.stdout)
    else:
        _show_table(findings)
    if any(finding.state == _BROKEN for finding in findings):
        raise typer.Exit(terminal.EXIT_FAILURE)


def examine(online: bool) -> Iterator[Finding]:
    """All findings, one by one."""
    yield _python()
    yield _duologue()
    yield _dependencies()
    yield from _extras()
    yield _torch()
    yield _threads()
    yield _audio()
    yield _phonemes()
    yield _bundled_model()
    yield _voices()
    yield _cache()
    yield _login()
    if online:
        yield _gated_access()
    yield _disk()


def installed_version(distribution: str) -> str | None:
    """The version of an installed distribution, None where there is none."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _python() -> Finding:
    version = platform.python_version()
    wanted = ".".join(map(str, MIN_PYTHON))
    state = _OK if sys.version_info >= MIN_PYTHON else _BROKEN
    text = f"{version} on {platform.system()} {platform.machine()}"
    if state == _BROKEN:
        text += f"; Duologue needs {wanted} or later"
    return Finding("python", state, text, {"version": version, "platform": platform.platform()})


def _duologue() -> Finding:
    version = installed_version("duologue")
    place = str(Path(__file__).resolve().parents[1])
    if version is None:
        return Finding("duologue", _NOTE, f"run from {place}, not installed", {"version": None, "path": place})
    return Finding("duologue", _OK, f"{version} in {place}", {"version": version, "path": place})


def _requirements(extra: str | None) -> list[tuple[str, str]]:
    """Names and version bounds of what the package, or one of its extras, requires."""
    try:
        lines = importlib.metadata.requires("duologue") or []
    except importlib.metadata.PackageNotFoundError:
        return []
    found = []
    for line in lines:
        requirement, _, marker = line.partition(";")
        named = re.search(r"extra\s*==\s*['\"]([^'\"]+)['\"]", marker)
        matched = re.match(r"([A-Za-z0-9._-]+)\s*(?:\[[^]]*])?\s*(.*)", requirement.strip())
        if matched and (named.group(1) if named else None) == extra and matched.group(1) != "duologue":
            found.append((matched.group(1), matched.group(2).strip().strip("()")))
    return found


def _is_met(version: str | None, bounds: str) -> bool:
    if version is None:
        return False
    try:
        from packaging.specifiers import SpecifierSet
    except ImportError:
        return True
    return SpecifierSet(bounds).contains(version, prereleases=True)


def _dependencies() -> Finding:
    """The required packages: there, recent enough, and importable."""
    versions: dict[str, str | None] = {}
    problems = []
    for name, bounds in _requirements(None):
        versions[name] = version = installed_version(name)
        key = name.lower().replace("_", "-")
        module = _IMPORT_NAMES.get(key, key.replace("-", "_"))
        if version is None:
            problems.append(f"{name} is missing")
        elif not _is_met(version, bounds):
            problems.append(f"{name} is {version}, needs {bounds}")
        else:
            try:
                importlib.import_module(module)
            except Exception as error:  # a broken binary wheel raises anything
                problems.append(f"{name} does not load: {type(error).__name__}: {error}")
    if problems:
        text = "; ".join(problems) + "; reinstall with: pip install --upgrade duologue"
        return Finding("packages", _BROKEN, text, versions)
    listed = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    return Finding("packages", _OK, listed or "not known: duologue is not installed", versions)


def _extras() -> Iterator[Finding]:
    for extra, use in EXTRAS.items():
        requirements = _requirements(extra)
        missing = [name for name, bounds in requirements if not _is_met(installed_version(name), bounds)]
        data = {"enables": use, "missing": missing, "installed": bool(requirements) and not missing}
        topic = f"extra {extra}"
        if not requirements:
            yield Finding(topic, _NOTE, "not known: duologue is not installed", data)
        elif missing:
            text = f"not there ({use}); for it: pip install 'duologue[{extra}]' (missing: {', '.join(missing)})"
            yield Finding(topic, _NOTE, text, data)
        else:
            yield Finding(topic, _OK, use, data)


def _torch() -> Finding:
    try:
        import torch
    except Exception as error:
        return Finding("device", _BROKEN, f"torch does not load: {type(error).__name__}: {error}", None)
    from duologue.engine.machine import processor_name

    devices = []
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            devices.append(f"cuda:{index} {properties.name}, {format_size(properties.total_memory)}")
    if torch.backends.mps.is_available():
        devices.append("mps")
    devices.append(f"cpu {processor_name()}")
    data = {"torch": torch.__version__, "devices": devices, "cuda_build": torch.version.cuda}
    return Finding("device", _OK, f"{'; '.join(devices)} (torch {torch.__version__})", data)


def _threads() -> Finding:
    try:
        import torch

        threads: int | None = torch.get_num_threads()
    except Exception:
        threads = None
    count = os.cpu_count()
    return Finding("threads", _OK, f"{threads} used of {count} processors", {"torch": threads, "processors": count})


def _audio() -> Finding:
    try:
        import soundfile

        formats = [name.lower() for name in ("WAV", "FLAC", "MP3", "OGG") if name in soundfile.available_formats()]
        if "OPUS" in soundfile.available_subtypes("OGG"):
            formats.append("opus")
        version = soundfile.__libsndfile_version__
    except Exception as error:
        return Finding("audio files", _BROKEN, f"libsndfile does not load: {type(error).__name__}: {error}", None)
    missing = sorted({"wav", "flac", "mp3", "ogg", "opus"} - set(formats))
    text = ", ".join(formats) + f" (libsndfile {version})"
    if missing:
        text += f"; not {', '.join(missing)}: pip install --upgrade soundfile"
    return Finding("audio files", _NOTE if missing else _OK, text, {"formats": formats, "libsndfile": version})


def _phonemes() -> Finding:
    try:
        from duologue.text.phonemes import EspeakPhonemizer

        EspeakPhonemizer("en-us")("hello")
    except Exception as error:
        return Finding("phonemes", _BROKEN, f"eSpeak NG does not work: {terminal.one_line(str(error))}", False)
    return Finding("phonemes", _OK, "eSpeak NG works (the text alphabet of the bundled model)", True)


def _bundled_model() -> Finding:
    folder = _pretrained_folder()
    models = {path.name: disk_size(path) for path in sorted(folder.glob("*")) if any(path.glob("*.safetensors"))}
    if not models:
        text = f"none in {folder}; reinstall the package, or use --model with another one"
        return Finding("bundled model", _BROKEN, text, {})
    return Finding(
        "bundled model", _OK, ", ".join(f"{name} ({format_size(size)})" for name, size in models.items()), models
    )


def _pretrained_folder() -> Path:
    return Path(__file__).resolve().parents[1] / "pretrained"


def _voices() -> Finding:
    folder = options.user_voices_folder()
    try:
        names = sorted({path.stem for path in folder.iterdir() if not path.name.startswith(".")})
    except OSError:
        names = []
    text = f"{len(names)} in {folder}" + (f": {', '.join(names)}" if names else "; duologue voices add makes one")
    return Finding("your voices", _OK, text, {"folder": str(folder), "names": names})


def _cache() -> Finding:
    try:
        from huggingface_hub import constants
    except Exception as error:
        return Finding("hub cache", _BROKEN, f"huggingface_hub does not load: {error}", None)
    folder = Path(constants.HF_HUB_CACHE)
    size = disk_size(folder)
    models = sorted(path.name.removeprefix("models--").replace("--", "/") for path in folder.glob("models--*"))
    text = f"{folder}, {format_size(size)}" + (f": {', '.join(models[:8])}" if models else ", no models yet")
    text += "; offline mode is on" if constants.HF_HUB_OFFLINE else ""
    data = {"folder": str(folder), "bytes": size, "models": models, "offline": bool(constants.HF_HUB_OFFLINE)}
    return Finding("hub cache", _OK, text, data)


def _login() -> Finding:
    try:
        from huggingface_hub import get_token

        has_token = get_token() is not None
    except Exception:
        has_token = False
    if has_token:
        return Finding("hub login", _OK, "an access token is set", {"token": True})
    text = f"no access token, which gated models such as {GATED_REPOSITORY} need: run hf auth login"
    return Finding("hub login", _NOTE, text, {"token": False})


def _gated_access() -> Finding:
    from huggingface_hub import HfApi
    from huggingface_hub import errors as hub_errors

    page = f"https://huggingface.co/{GATED_REPOSITORY}"
    try:
        HfApi().auth_check(GATED_REPOSITORY)
    except hub_errors.GatedRepoError:
        return Finding("gated access", _NOTE, f"not granted yet; ask at {page}, then hf auth login", "gated")
    except hub_errors.RepositoryNotFoundError:
        return Finding("gated access", _NOTE, f"no valid login: ask at {page}, then hf auth login", "no login")
    except Exception as error:
        return Finding("gated access", _NOTE, f"the hub cannot be reached: {type(error).__name__}", "unreachable")
    return Finding("gated access", _OK, f"{GATED_REPOSITORY} may be downloaded", "granted")


def _disk() -> Finding:
    try:
        from huggingface_hub import constants

        folder = Path(constants.HF_HUB_CACHE)
    except Exception:
        folder = options.user_folder()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    return Finding("free disk", _OK, f"{format_size(free)} at {folder}", {"bytes": free, "folder": str(folder)})


def disk_size(folder: Path) -> int:
    """Bytes of a file, or of all below a folder; links, which the hub's cache is made of, do not count twice."""
    if folder.is_file():
        return folder.stat().st_size
    total = 0
    for place, _, names in os.walk(folder, onerror=lambda error: None):
        for name in names:
            path = os.path.join(place, name)
            if not os.path.islink(path):
                try:
                    total += os.path.getsize(path)
                except OSError:
                    continue
    return total


def format_size(num_bytes: float) -> str:
    """`12 kB`, `3.4 GB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if unit in ("B", "kB") else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} TB"


def _show_table(findings: list[Finding]) -> None:
    if not sys.stdout.isatty():
        width = max(len(finding.topic) for finding in findings)
        for finding in findings:
            typer.echo(f"{finding.state:<6}  {finding.topic:<{width}}  {terminal.one_line(finding.text)}")
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    styles = {_OK: "green", _NOTE: "yellow", _BROKEN: "bold red"}
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        state = Text(finding.state, style=styles[finding.state])
        table.add_row(state, Text(finding.topic, style="bold"), Text(terminal.one_line(finding.text)))
    Console(file=sys.stdout).print(table)
