"""Hub ids: which files are taken, what is found offline, and one line for everything that goes wrong."""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import errors

from duologue.checkpoints import convert, hub, inspect, load_checkpoint, load_codec
from duologue.checkpoints.hub import HubOptions, choose_files, fetch, resolve
from duologue.checkpoints.registry import CODEC_SOURCE, KNOWN, SESAME_PROMPTS, SHORT_NAMES, TOKENIZER_SOURCE
from duologue.errors import HubError
from tests.checkpoints.folders import Tiny

# The tree of sesame/csm-1b at revision c92a71e1.
SESAME_TREE = [
    ".gitattributes",
    "README.md",
    "chat_template.jinja",
    "ckpt.pt",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "preprocessor_config.json",
    *SESAME_PROMPTS,
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "transformers-00001-of-00002.safetensors",
    "transformers-00002-of-00002.safetensors",
    "transformers.safetensors.index.json",
]
MOSHI_FILE = "tokenizer-e351c8d8-checkpoint125.safetensors"


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a test does not fake would be an error of its own."""

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", refuse)


@pytest.mark.parametrize(
    ("names", "codec_only", "chosen"),
    [
        (
            SESAME_TREE,
            False,
            [
                "config.json",
                "tokenizer.json",
                "transformers.safetensors.index.json",
                "transformers-00001-of-00002.safetensors",
                "transformers-00002-of-00002.safetensors",
            ],
        ),
        ([".gitattributes", "README.md", "model.safetensors"], False, ["model.safetensors"]),  # MisoTTS
        (
            ["config.json", "model.safetensors", MOSHI_FILE, "tokenizer.json", "extra.bin"],
            False,
            ["config.json", "tokenizer.json", "model.safetensors", MOSHI_FILE],
        ),
        (["model.safetensors", MOSHI_FILE, "tokenizer_spm_32k_3.model"], True, [MOSHI_FILE]),  # moshiko
        (["config.json", "model.safetensors", "preprocessor_config.json"], True, ["config.json", "model.safetensors"]),
        (
            ["config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
            + ["model.safetensors.index.json", "adapter.safetensors"],
            False,
            ["config.json", "model.safetensors.index.json"]
            + ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
        ),
        (
            ["config.json", "codec.safetensors", "model.safetensors", "tokenizer.json", "voices/a.json", "README.md"],
            False,
            ["config.json", "tokenizer.json", "codec.safetensors", "model.safetensors", "voices/a.json"],
        ),
        (["config.json", "codec.safetensors", "model.safetensors"], True, ["config.json", "codec.safetensors"]),
        (["mimi.safetensors"], True, ["mimi.safetensors"]),
    ],
)
def test_only_one_layout_is_taken(names: list[str], codec_only: bool, chosen: list[str]) -> None:
    assert choose_files("o/n", names, codec_only=codec_only) == chosen


@pytest.mark.parametrize("names", [["ckpt.pt", "README.md"], ["a.safetensors", "b.safetensors"]])
def test_a_repository_without_a_checkpoint(names: list[str]) -> None:
    with pytest.raises(HubError, match=r"o/n: cannot tell which safetensors file"):
        choose_files("o/n", names)


class FakeHub:
    """`HfApi.list_repo_files` and `snapshot_download` over local folders; keeps what it was asked."""

    def __init__(self, repositories: dict[str, Path], monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
        self.repositories, self.root = repositories, root
        self.asked: list[dict[str, Any]] = []
        monkeypatch.setattr(huggingface_hub, "HfApi", self.api)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", self.download)

    def api(self, token: str | None = None) -> SimpleNamespace:
        return SimpleNamespace(list_repo_files=lambda repo_id, revision=None: self.names(repo_id))

    def names(self, repo_id: str) -> list[str]:
        folder = self.repositories[repo_id]
        return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())

    def download(self, repo_id: str, **options: Any) -> str:
        self.asked.append({"repo_id": repo_id, **options})
        target = self.root / repo_id.replace("/", "--")
        for name in options["allow_patterns"]:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(self.repositories[repo_id] / name, target / name)
        return str(target)


def test_a_repository_is_downloaded_and_loaded(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeHub({"some/one": tiny.folders["transformers"]}, monkeypatch, tmp_path)
    checkpoint = load_checkpoint("some/one", revision="v1", token="secret", cache_dir=tmp_path / "cache")
    assert torch.equal(checkpoint.model.audio_head, tiny.model.audio_head)
    [asked] = fake.asked
    assert asked["revision"] == "v1" and asked["token"] == "secret" and asked["cache_dir"] == str(tmp_path / "cache")
    assert asked["allow_patterns"] == ["config.json", "tokenizer.json", "model.safetensors"]


def test_what_a_checkpoint_lacks_comes_from_the_registry(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Like MisoTTS: the repository has neither codec nor tokenizer."""
    bare = Path(shutil.copytree(tiny.folders["sesame"], tmp_path / "bare"))
    (bare / "tokenizer.json").unlink()
    (bare / MOSHI_FILE).unlink()
    llama = tmp_path / "llama"
    llama.mkdir()
    shutil.copy(tiny.tokenizer, llama / "tokenizer.json")
    (llama / "model.safetensors").write_text("not wanted")
    moshi = Path(shutil.copytree(tiny.folders["moshi-mimi"], tmp_path / "moshi"))
    repositories = {"some/one": bare, TOKENIZER_SOURCE: llama, CODEC_SOURCE: moshi}
    fake = FakeHub(repositories, monkeypatch, tmp_path / "hub")
    (tmp_path / "hub" / CODEC_SOURCE.replace("/", "--")).mkdir(parents=True)
    shutil.copy(moshi / "mimi_config.json", tmp_path / "hub" / CODEC_SOURCE.replace("/", "--"))
    checkpoint = load_checkpoint("some/one", revision="v1")
    assert torch.equal(checkpoint.codec.downsample.conv.weight, tiny.codec.downsample.conv.weight)
    assert [(asked["repo_id"], asked["revision"]) for asked in fake.asked] == [
        ("some/one", "v1"),
        (CODEC_SOURCE, None),
        (TOKENIZER_SOURCE, None),
    ]
    assert fake.asked[1]["allow_patterns"] == [MOSHI_FILE]
    assert fake.asked[2]["allow_patterns"] == ["tokenizer.json"]


def http_error(kind: type[errors.HfHubHTTPError], status: int, message: str = "nope\nand more") -> Exception:
    response = SimpleNamespace(status_code=status, headers={}, request=None)
    return kind(message, response=response)  # type: ignore[arg-type]


REFUSALS: list[tuple[Callable[[], Exception], str]] = [
    (
        lambda: http_error(errors.GatedRepoError, 403),
        r"some/one: gated; ask for access at https://huggingface\.co/some/one, then log in with `hf auth login` or set "
        r"HF_TOKEN$",
    ),
    (lambda: http_error(errors.RepositoryNotFoundError, 404), "no such folder here and no such repository"),
    (lambda: http_error(errors.RevisionNotFoundError, 404), "has no revision 'v9'"),
    (lambda: http_error(errors.HfHubHTTPError, 401), r"access refused \(401\)"),
    (lambda: http_error(errors.HfHubHTTPError, 429), "the hub answered 429: nope and more"),
    (lambda: http_error(errors.HfHubHTTPError, 503), "cannot be reached .* nothing of it is in the cache"),
    (lambda: errors.LocalEntryNotFoundError("x"), "the hub cannot be reached and nothing of it is in the cache"),
    (lambda: errors.OfflineModeIsEnabled("x"), "the hub cannot be reached and nothing of it is in the cache"),
    (lambda: ConnectionError("no route\nto host"), r"cannot be reached \(ConnectionError: no route to host\)"),
    (lambda: OSError(28, "No space left on device"), r"cannot be stored \(No space left on device\)"),
    (lambda: errors.HFValidationError("bad id"), r"not a hub id \(bad id\)"),
]


@pytest.mark.parametrize(("make", "message"), REFUSALS)
@pytest.mark.parametrize("where", ["listing", "download"])
def test_refusals_are_one_clear_line(
    make: Callable[[], Exception], message: str, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise make()

    def snapshot(repo_id: str, *, local_files_only: bool = False, **options: Any) -> str:
        if local_files_only:
            raise errors.LocalEntryNotFoundError("nothing cached")
        raise make()

    listing = fail if where == "listing" else lambda *args, **kwargs: ["model.safetensors"]
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", listing)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    with pytest.raises(HubError, match=message) as caught:
        load_codec("some/one", revision="v9", cache_dir=tmp_path)
    assert "\n" not in str(caught.value)


def put_in_cache(
    cache: Path, repo_id: str, folder: Path, commit: str = "0123456789abcdef0123456789abcdef01234567"
) -> Path:
    """The cache as huggingface_hub lays it out."""
    storage = cache / f"models--{repo_id.replace('/', '--')}"
    (storage / "refs").mkdir(parents=True)
    (storage / "refs" / "main").write_text(commit)
    return Path(shutil.copytree(folder, storage / "snapshots" / commit))


def test_offline_loads_what_the_cache_has(tiny: Tiny, tmp_path: Path) -> None:
    snapshot = put_in_cache(tmp_path, "some/one", tiny.folders["transformers"])
    checkpoint = load_checkpoint("some/one", offline=True, cache_dir=tmp_path)
    assert checkpoint.folder == snapshot
    assert torch.equal(checkpoint.model.audio_head, tiny.model.audio_head)
    codec = load_codec("some/one", offline=True, cache_dir=tmp_path)
    assert torch.equal(codec.downsample.conv.weight, tiny.codec.downsample.conv.weight)
    with pytest.raises(
        HubError, match=r"some/one at revision v2: offline mode is on and nothing of it is in the cache"
    ):
        load_checkpoint("some/one", revision="v2", offline=True, cache_dir=tmp_path)
    with pytest.raises(HubError, match=r"other/one: offline mode is on and nothing of it is in the cache; download"):
        load_checkpoint("other/one", offline=True, cache_dir=tmp_path)


def test_offline_finds_a_snapshot_that_is_known_to_be_partial(tiny: Tiny, tmp_path: Path) -> None:
    """We take some files of a repository; newer hub libraries keep its whole tree and call the rest incomplete."""
    snapshot = put_in_cache(tmp_path, "some/one", tiny.folders["transformers"])
    try:
        from huggingface_hub._tree_cache import TreeCacheEntry, write_tree_cache
    except ImportError:
        pytest.skip("this huggingface_hub keeps no trees")
    entries = {
        name: TreeCacheEntry(size=1, blob_id="0" * 40, lfs_sha256=None, lfs_size=None, xet_hash=None)
        for name in ("config.json", "ckpt.pt")
    }
    write_tree_cache(str(snapshot.parents[1]), snapshot.name, entries)
    with pytest.raises(errors.IncompleteSnapshotError):
        huggingface_hub.snapshot_download("some/one", cache_dir=tmp_path, local_files_only=True)
    assert load_checkpoint("some/one", offline=True, cache_dir=tmp_path).folder == snapshot


def test_without_a_network_the_cache_is_used(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", fail)
    snapshot = put_in_cache(tmp_path, "some/one", tiny.folders["native"])
    assert load_checkpoint("some/one", cache_dir=tmp_path).folder == snapshot


@pytest.mark.parametrize(
    "source", ["nowhere", "/no/such/folder", "./a/b/c", "some/model.safetensors", "../up", "a b/c"]
)
def test_what_is_neither_a_folder_nor_a_hub_id(source: str) -> None:
    with pytest.raises(HubError, match=r"no such folder or file, and not a hub id .* known names are sesame/csm-1b"):
        resolve(source, HubOptions())


def test_a_codec_repository_is_not_a_checkpoint() -> None:
    with pytest.raises(HubError, match=r"kyutai/mimi: holds a codec and no CSM"):
        load_checkpoint("kyutai/mimi")
    with pytest.raises(HubError, match=r"kyutai/mimi: holds a codec and no CSM"):
        load_checkpoint("mimi")


def test_the_hubs_codec_is_inspected_and_converted(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeHub({"kyutai/mimi": tiny.folders["transformers-mimi"]}, monkeypatch, tmp_path / "cache")
    found = inspect("mimi")
    assert found["csm"] is None
    assert found["layout"] == "transformers-mimi"
    convert("kyutai/mimi", tmp_path / "native", "native")
    ours, theirs = (load_codec(folder).state_dict() for folder in (tmp_path / "native", tiny.folders["native"]))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_short_names_are_known_names() -> None:
    assert set(SHORT_NAMES.values()) <= KNOWN.keys()
    assert KNOWN["sesame/csm-1b"].gated and CODEC_SOURCE in KNOWN


def test_errors_of_our_own_pass_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda *args, **kwargs: ["a.txt"])
    with pytest.raises(HubError, match=r"o/n: cannot tell"):
        fetch("o/n", lambda names: choose_files("o/n", names), HubOptions())
    assert hub.HubOptions().cache_folder is None
