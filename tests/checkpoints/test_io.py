"""Files: strict headers, single tensors, and folders that appear whole or not at all."""

import errno
import json
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from duologue.checkpoints import io
from duologue.checkpoints.io import TensorFiles, new_folder, read_json, sharded, write_tensors
from duologue.errors import CheckpointError

TENSORS = {
    "floats": torch.randn(3, 4),
    "halves": torch.randn(5).half(),
    "brains": torch.randn(2, 2, 2).bfloat16(),
    "doubles": torch.randn(1).double(),
    "whole": torch.arange(7),
    "flags": torch.tensor([True, False]),
    "scalar": torch.tensor(2.5),
    "nothing": torch.zeros(0, 3),
}


def write(path: Path, header: object, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def entry(first: int = 0, last: int = 4, dtype: str = "F32", shape: tuple[int, ...] = (1,)) -> dict[str, object]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [first, last]}


def test_tensors_are_what_the_library_wrote(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "a.safetensors", metadata={"format": "pt"})
    files = TensorFiles([tmp_path / "a.safetensors"])
    assert files.infos.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        loaded = files.read(name)
        assert loaded.dtype == tensor.dtype and torch.equal(loaded, tensor)
        assert files.infos[name].shape == tensor.shape


def test_the_library_reads_what_we_wrote(tmp_path: Path) -> None:
    [path] = write_tensors(tmp_path, iter(TENSORS.items()))
    loaded = load_file(path)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in TENSORS.items())
    assert path.stat().st_mode & 0o044 == tmp_path.stat().st_mode & 0o044


def test_shards_have_an_index(tmp_path: Path) -> None:
    tensors = {f"t{index}": torch.full((10,), float(index)) for index in range(7)}
    paths = write_tensors(tmp_path, iter(tensors.items()), name="w", max_shard_bytes=100)
    assert [path.name for path in paths] == [f"w-0000{index}-of-00004.safetensors" for index in range(1, 5)]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *(path.name for path in paths),
        "w.safetensors.index.json",
    ]
    index = read_json(tmp_path / "w.safetensors.index.json")
    assert index["metadata"] == {"total_size": 280}
    files = sharded(tmp_path / "w.safetensors.index.json")
    assert all(torch.equal(files.read(name), tensor) for name, tensor in tensors.items())


@given(st.data())
@settings(max_examples=60)
def test_a_truncated_file_is_refused_wherever_it_ends(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("cut") / "a.safetensors"
    save_file({"x": torch.randn(3, 5), "y": torch.randn(4)}, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(CheckpointError, match=r"truncated|is empty|is not a safetensors file") as caught:
        TensorFiles([path])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"RIFF" + bytes(100), "is not a safetensors file"),
        (b"<!doctype html><html>not found</html>", "is not a safetensors file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer.*git lfs pull"),
        (b"PK\x03\x04" + bytes(200), "is a pickle.*refused"),
        (b"\x80\x02}q\x00" + b"X" * 200, "is a pickle.*refused"),
        ((10**6).to_bytes(8, "little") + b'{"x": {}}', r"truncated \(its header is not whole\)"),
        (b"\x05" + bytes(7) + b"{oops", "its header is not JSON"),
        (b"\x02" + bytes(7) + b"[]", "is not a safetensors file"),
    ],
)
def test_what_is_no_safetensors_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        TensorFiles([path])
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        ({"x": {"dtype": "F32"}}, b"", "entry of x is malformed"),
        ({"x": 3}, b"", "entry of x is malformed"),
        ({"x": entry(shape=(-1,))}, bytes(4), "entry of x is malformed"),
        ({"x": entry(first=0, last=True)}, bytes(4), "entry of x is malformed"),
        ({"x": entry(dtype="F8_E4M3", last=1)}, bytes(1), "is of type F8_E4M3"),
        ({"x": entry(last=8)}, bytes(8), "has 8 bytes, which is not what its shape needs"),
        ({"x": entry(), "y": entry()}, bytes(4), "overlap or leave gaps"),
        ({"x": entry(4, 8)}, bytes(8), "overlap or leave gaps"),
        ({"x": entry()}, bytes(6), "2 bytes after its last tensor"),
        (b'{"x": {}, "y": {}, "x": {}}', b"", "doubled in its header: x$"),
    ],
)
def test_headers_that_lie_are_refused(tmp_path: Path, header: object, data: bytes, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        TensorFiles([write(tmp_path / "a.safetensors", header, data)])


@pytest.mark.parametrize("name", ["ckpt.pt", "pytorch_model.bin", "a.pth", "a.ckpt", "A.PKL"])
def test_pickles_are_refused_by_name(tmp_path: Path, name: str) -> None:
    torch.save({"x": torch.ones(1)}, tmp_path / name)
    with pytest.raises(CheckpointError, match=r"a pickle can run code when it is opened and is refused"):
        TensorFiles([tmp_path / name])


def test_a_pickle_under_another_name_is_refused(tmp_path: Path) -> None:
    torch.save({"x": torch.ones(1)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"is a pickle, which can run code"):
        TensorFiles([tmp_path / "model.safetensors"])


def test_a_name_in_two_files_is_doubled(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_file({"x": torch.ones(1)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(CheckpointError, match=r"tensor x is doubled: a\.safetensors has it too"):
        TensorFiles([tmp_path / "a.safetensors", tmp_path / "b.safetensors"])


def test_a_file_that_shrinks_after_it_was_opened(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"x": torch.ones(100)}, path)
    files = TensorFiles([path])
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match=r"ended inside tensor x"):
        files.read("x")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot be read"):
        TensorFiles([tmp_path / "missing.safetensors"])
    with pytest.raises(CheckpointError, match=r"cannot be read"):
        TensorFiles([tmp_path])


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("{", "is not valid JSON"),
        ("[]", "expected a JSON object, found list"),
        ("{}", "has no weight_map"),
        ('{"weight_map": {}}', "has no weight_map"),
        ('{"weight_map": {"x": 3}}', "has no weight_map"),
        ('{"weight_map": {"x": "../a.safetensors"}}', "is not beside it"),
        ('{"weight_map": {"x": "b.safetensors"}}', r"names b\.safetensors, which is not there"),
        ('{"weight_map": {"x": "a.safetensors", "y": "a.safetensors"}}', r"disagrees .* 1 tensor\(s\): y"),
        ('{"weight_map": {"y": "a.safetensors"}}', r"disagrees .* 2 tensor\(s\): x, y"),
    ],
)
def test_an_index_that_does_not_fit_is_refused(tmp_path: Path, index: str, message: str) -> None:
    save_file({"x": torch.ones(1)}, tmp_path / "a.safetensors")
    (tmp_path / "i.safetensors.index.json").write_text(index)
    with pytest.raises(CheckpointError, match=message):
        sharded(tmp_path / "i.safetensors.index.json")


def test_a_folder_appears_when_it_is_whole(tmp_path: Path) -> None:
    destination = tmp_path / "deep" / "er" / "new"
    with new_folder(destination) as folder:
        (folder / "a").write_text("1")
        assert not destination.exists()
    assert [path.name for path in destination.iterdir()] == ["a"]
    assert [path.name for path in destination.parent.iterdir()] == ["new"]


@pytest.mark.parametrize("error", [RuntimeError("oops"), KeyboardInterrupt(), SystemExit(3)])
@pytest.mark.parametrize("overwrite", [False, True])
def test_nothing_is_left_of_a_failed_folder(tmp_path: Path, error: BaseException, overwrite: bool) -> None:
    destination = tmp_path / "new"
    if overwrite:
        destination.mkdir()
        (destination / "old").write_text("1")
    with pytest.raises(type(error)), new_folder(destination, overwrite=overwrite) as folder:
        (folder / "a").write_text("1")
        raise error
    assert sorted(path.name for path in tmp_path.rglob("*")) == (["new", "old"] if overwrite else [])


def test_what_is_there_is_kept_unless_asked(tmp_path: Path) -> None:
    destination = tmp_path / "new"
    destination.mkdir()
    with new_folder(destination) as folder:  # an empty folder is as good as none
        (folder / "a").write_text("1")
    with pytest.raises(CheckpointError, match=r"is already there"), new_folder(destination):
        pass
    with new_folder(destination, overwrite=True) as folder:
        (folder / "b").write_text("1")
    assert [path.name for path in tmp_path.rglob("*")] == ["new", "b"]


def test_a_failed_swap_brings_the_old_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    destination = tmp_path / "new"
    destination.mkdir()
    (destination / "old").write_text("1")
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self.name == "new" and self.parent != tmp_path:
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(CheckpointError, match=r"Input/output error"), new_folder(destination, overwrite=True) as folder:
        (folder / "a").write_text("1")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["new", "old"]


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(tensors: dict[str, Tensor], path: Path, metadata: object) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(io, "save_file", full)
    with (
        pytest.raises(CheckpointError, match=r"No space left on device") as caught,
        new_folder(tmp_path / "new") as folder,
    ):
        write_tensors(folder, iter(TENSORS.items()))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_destination_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("1")
    with pytest.raises(CheckpointError, match=r"cannot be written"), new_folder(tmp_path / "file" / "new"):
        pass
