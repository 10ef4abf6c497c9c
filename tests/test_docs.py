"""The documentation holds: snippets and examples run, command lines parse, links lead somewhere.

A fence's language is its first word. ```` ```python ```` is executed by itself in a folder of its own, with a
`recording.wav` and the repository's `examples/` in it; ```` ```python no-run ```` is compiled only. Generation is cut
after a second, so that a poor or untrained model costs no time.
"""

import ast
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
import typer.testing

from duologue.cli.main import create_app

REPOSITORY = Path(__file__).resolve().parents[1]
README = REPOSITORY / "README.md"
PAGES = (README, *sorted((REPOSITORY / "docs").glob("*.md")))
EXAMPLES = tuple(sorted((REPOSITORY / "examples").glob("*.py")))
MAX_EXAMPLE_LINES = 30
MAX_SECONDS = 1.0

# The public contract's commands; those that are not there yet have to be mentioned as such.
COMMANDS = (
    *("speak", "converse", "voices list", "voices add", "voices remove", "codec encode", "codec decode", "convert"),
    *("doctor", "prepare", "train", "eval", "bench", "serve", "talk"),
)
# What the README may name besides files that are there or that an earlier line makes.
NEEDS_THE_HUB = ("sesame/csm-1b", "--online")

pytestmark = pytest.mark.filterwarnings("ignore::duologue.DuologueWarning")  # the cap of this file


@dataclass(frozen=True)
class Fence:
    page: Path
    line: int  # of its first line of content
    info: str
    text: str

    @property
    def name(self) -> str:
        return f"{self.page.name}:{self.line}"

    def compile(self) -> Any:
        return compile("\n" * (self.line - 1) + self.text, self.page.name, "exec", dont_inherit=True)

    @property
    def loads_the_bundled_model(self) -> bool:
        return loads_the_bundled_model(self.text)


def fences_of(page: Path) -> Iterator[Fence]:
    opened: tuple[int, str] | None = None
    lines: list[str] = []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.startswith("```"):
            lines.append(line)
        elif opened is None:
            opened, lines = (number + 1, line.removeprefix("```").strip()), []
        else:
            yield Fence(page, opened[0], opened[1], "\n".join(lines) + "\n")
            opened = None
    assert opened is None, f"{page.name}: the fence before line {opened and opened[0]} is not closed"


def all_fences(language: str, pages: tuple[Path, ...] = PAGES) -> list[Fence]:
    return [fence for page in pages for fence in fences_of(page) if fence.info.split()[:1] == [language]]


def loads_the_bundled_model(source: str) -> bool:
    """Whether a call of `load`, `load_codec` or `bundled_model` names no model."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    names = [getattr(call.func, "attr", getattr(call.func, "id", "")) for call in calls]
    return any(
        name in ("load", "load_codec", "bundled_model") and not call.args
        for name, call in zip(names, calls, strict=True)
    )


def has_bundled_model() -> bool:
    from duologue.engine.load import bundled_model
    from duologue.errors import CheckpointError

    try:
        bundled_model()
    except CheckpointError:
        return False
    return True


def require_bundled_model() -> None:
    if not has_bundled_model():
        pytest.skip("the bundled model, src/duologue/pretrained/parlor, is not there")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with what the snippets name, and a generator that stops after a second."""
    from duologue.audio import write_audio
    from duologue.engine.generator import Generator

    rate, seconds = 24_000, 1.5
    time = torch.arange(round(seconds * rate)) / rate
    hum = (2 * torch.pi * 140 * time).sin() * (0.6 + 0.4 * (2 * torch.pi * 3 * time).sin())
    write_audio(tmp_path / "recording.wav", 0.3 * hum, rate)
    shutil.copytree(REPOSITORY / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DUOLOGUE_HOME", str(tmp_path / "home"))
    num_frames = Generator.num_frames

    def at_most_a_second(generator: Generator, max_audio_length_ms: float) -> int:
        most = int(MAX_SECONDS * generator.codec.frame_rate)
        return min(num_frames(generator, max_audio_length_ms), most)

    monkeypatch.setattr(Generator, "num_frames", at_most_a_second)
    return tmp_path


# --- Python ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fence", all_fences("python"), ids=lambda fence: fence.name)
def test_python_fence(fence: Fence, folder: Path) -> None:
    assert set(fence.info.split()[1:]) <= {"no-run"}, f"{fence.name}: unknown word after ```python"
    code = fence.compile()
    if "no-run" in fence.info:
        return
    if fence.loads_the_bundled_model:
        require_bundled_model()
    exec(code, {"__name__": "__main__"})


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_example(path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = path.read_text(encoding="utf-8")
    assert source.count("\n") <= MAX_EXAMPLE_LINES
    assert ast.get_docstring(ast.parse(source)), "an example begins with what it shows"
    code = compile(source, path.name, "exec", dont_inherit=True)
    if loads_the_bundled_model(source):
        require_bundled_model()
    monkeypatch.setattr("sys.argv", [path.name])
    exec(code, {"__name__": "__main__"})
    assert [*folder.glob("*.wav")] != [folder / "recording.wav"], "an example leaves something to listen to"


def test_every_example_is_here() -> None:
    assert {"quickstart.py", "conversation.py", "stream.py", "codec.py", "own_voice.py"} <= {p.name for p in EXAMPLES}


# --- the command line ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CommandLine:
    fence: Fence
    arguments: list[str]

    @property
    def name(self) -> str:
        return f"{self.fence.name} {' '.join(self.arguments)}"


def commands_in(text: str) -> list[list[str]]:
    """The simple commands of a shell text: without pipes, lists, redirections, variables in front and comments."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        command: list[str] = []
        is_target = False
        for token in [*lexer, ";"]:
            if set(token) <= set("|&;()"):
                found.append(command)
                command = []
            elif set(token) <= set("<>"):
                is_target = True
            elif is_target:
                is_target = False
            elif command or not re.fullmatch(r"\w+=.*", token):
                command.append(token)
    return [command for command in found if command]


def command_lines(*pages: Path) -> list[CommandLine]:
    return [
        CommandLine(fence, [str(word) for word in command[1:]])
        for fence in all_fences("bash", pages)
        for command in commands_in(fence.text)
        if Path(command[0]).name == "duologue"
    ]


def parse(arguments: list[str]) -> None:
    """Raises what click raises for a command, argument or option that there is not, or a value of the wrong type."""
    command: Any = typer.main.get_command(create_app())
    words, parent = list(arguments), command.make_context("duologue", [], resilient_parsing=True)
    while hasattr(command, "get_command") and words and not words[0].startswith("-"):
        name = words.pop(0)
        command = command.get_command(parent, name)
        assert command is not None, f"duologue has no command {name}"
        if not hasattr(command, "get_command"):
            command.make_context(name, words)
            return
        parent = command.make_context(name, [], parent=parent, resilient_parsing=True)
    command.make_context("duologue", words, resilient_parsing=True)


@pytest.mark.parametrize("line", command_lines(*PAGES), ids=lambda line: line.name)
def test_command_line_parses(line: CommandLine) -> None:
    parse(line.arguments)


@pytest.mark.parametrize(
    "arguments",
    ["sing hello", "speak hello --loud", "speak", "speak hello --seed x", "voices paint", "codec encode a.wav"],
)
def test_a_wrong_command_line_is_found(arguments: str) -> None:
    with pytest.raises(Exception) as caught:
        parse(arguments.split())
    assert isinstance(caught.value, AssertionError) or hasattr(caught.value, "format_message")


def test_commands_are_found_in_shell_text() -> None:
    text = 'A=1 cat x | duologue speak - -o - | aplay -q  # and listen\nduologue \\\n  doctor > "a b" && ls\n'
    assert commands_in(text) == [
        ["cat", "x"],
        ["duologue", "speak", "-", "-o", "-"],
        ["aplay", "-q"],
        ["duologue", "doctor"],
        ["ls"],
    ]


def test_the_readme_s_command_lines_run(folder: Path) -> None:
    lines = [line.arguments for line in command_lines(README)]
    here = [arguments for arguments in lines if not any(word in arguments for word in NEEDS_THE_HUB)]
    assert {"speak", "converse", "voices", "codec", "doctor"} <= {arguments[0] for arguments in here}
    require_bundled_model()
    runner = typer.testing.CliRunner()
    for arguments in here:
        result = runner.invoke(create_app(), arguments)
        assert result.exit_code == 0, f"duologue {' '.join(arguments)}: {result.output}"
        for index, word in enumerate(arguments):
            if word == "-o":
                assert (folder / arguments[index + 1]).stat().st_size > 0


def test_every_command_of_the_contract_is_mentioned() -> None:
    prose = "\n".join(page.read_text(encoding="utf-8") for page in (README, REPOSITORY / "docs" / "guide.md"))
    missing = [command for command in COMMANDS if f"duologue {command}" not in prose]
    assert not missing, f"neither README nor guide mentions: {', '.join(missing)}"


def test_what_is_called_missing_is_missing() -> None:
    (paragraph,) = re.findall(r"^- Not yet: .*?(?=\n\n|\n- )", README.read_text(encoding="utf-8"), re.M | re.S)
    announced = set(re.findall(r"`duologue (\w+)`", " ".join(paragraph.split())))
    command: Any = typer.main.get_command(create_app())
    there = set(command.list_commands(command.make_context("duologue", [], resilient_parsing=True)))
    assert not announced & there, "these commands exist: take them out of the README's list"
    assert announced | there >= {name.split()[0] for name in COMMANDS}


@pytest.mark.parametrize("fence", all_fences("bash"), ids=lambda fence: fence.name)
def test_make_targets_and_modules_exist(fence: Fence) -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    for command in commands_in(fence.text):
        if command[0] == "make":
            for target in command[1:]:
                assert re.search(rf"^{re.escape(target)}:", makefile, re.M), f"make has no target {target}"
        if "-m" in command and Path(command[0]).name.startswith("python"):
            module = command[command.index("-m") + 1]
            place = REPOSITORY / module.replace(".", "/")
            files = [path for path in (place / "__main__.py", place.with_suffix(".py")) if path.is_file()]
            assert files, f"there is no module {module}"
            # Programs of one recipe share options.
            beside = "".join(path.read_text(encoding="utf-8") for path in files[0].parent.glob("*.py"))
            for option in (word for word in command if word.startswith("--")):
                assert f'"{option}"' in beside, f"{module} has no option {option}"


# --- links and figures -----------------------------------------------------------------------------------------------

_LINK = re.compile(r"!?\[[^\]]*\]\(([^()\s]+)\)")


def anchors_of(page: Path) -> set[str]:
    """The anchors that GitHub gives to a page's headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    titles = re.findall(r"^#+ +(.*?) *$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def links_of(page: Path) -> list[str]:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    return [link for link in _LINK.findall(re.sub(r"`[^`\n]*`", "", text)) if not re.match(r"[a-z]+:", link)]


@pytest.mark.parametrize("page", [*PAGES, REPOSITORY / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_internal_links_resolve(page: Path) -> None:
    for link in links_of(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_relative_to(REPOSITORY), f"{page.name}: {link} leads out of the repository"
        assert target.exists(), f"{page.name}: {link} leads nowhere"
        if anchor:
            assert anchor in anchors_of(target), f"{page.name}: {target.name} has no heading for #{anchor}"


def test_the_index_names_every_page() -> None:
    index = REPOSITORY / "docs" / "index.md"
    assert {*links_of(index)} >= {page.name for page in PAGES[1:]} - {index.name}


def test_figures_are_in_the_model_card_and_filled_in() -> None:
    card = REPOSITORY / "docs" / "model-card.md"
    for page in PAGES:
        unfilled = re.findall(r"\{\{\w+\}\}", page.read_text(encoding="utf-8"))
        assert page == card or not unfilled, f"{page.name}: {unfilled[0]} belongs into the model card"
        if page == card and (REPOSITORY / "src" / "duologue" / "pretrained" / "parlor").is_dir():
            assert not unfilled, f"{page.name}: {', '.join(sorted(set(unfilled)))} still to be measured"


def test_the_model_card_s_sizes_and_voices_are_those_of_the_checkpoint() -> None:
    from duologue.checkpoints.layouts import build_codec, build_csm
    from duologue.checkpoints.native import read_config
    from duologue.checkpoints.rules import module_shapes
    from recipes.parlor.voices import SHIPPED

    folder = REPOSITORY / "src" / "duologue" / "pretrained" / "parlor"
    if not folder.is_dir():
        pytest.skip("the bundled model, src/duologue/pretrained/parlor, is not there")

    def millions(module: torch.nn.Module) -> str:
        return f"{sum(shape.numel() for shape in module_shapes(module).values()) / 1e6:.1f} M"

    csm_config, codec_config = read_config(json.loads((folder / "config.json").read_text()), "parlor")
    assert csm_config is not None and codec_config is not None
    codec, csm = build_codec(codec_config), build_csm(csm_config)
    card = (REPOSITORY / "docs" / "model-card.md").read_text(encoding="utf-8")
    table = card[card.index("## Architecture") : card.index("## Data")]
    for part, module in {"backbone": csm.backbone, "depth": csm.depth, "model**": csm, "codec**": codec}.items():
        assert re.search(rf"\b{re.escape(part)}[^\n]*\b{re.escape(millions(module))}", table), (part, millions(module))
    assert f"{csm_config.text_vocab_size} text symbols" in table
    assert f"{csm.num_codebooks} codebooks of {csm_config.codebook_size}" in table
    voices = re.findall(r"^\| `([a-z]+)` \|", card[card.index("## Voices") : card.index("## Limits")], re.M)
    assert voices == [name for name, *_ in SHIPPED]
    seconds = codec.config.transformer.window / (codec.frame_rate * codec.config.resample_stride)
    assert f"window of {codec.config.transformer.window} steps ({seconds:g} s)" in table
