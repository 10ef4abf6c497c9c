"""The engine that applies key tables."""

from collections.abc import Mapping

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from duologue.checkpoints.layouts import build_codec, build_csm, codec_links, csm_links
from duologue.checkpoints.rules import (
    Fused,
    HalfSplit,
    Link,
    Pointwise,
    Rule,
    Same,
    TensorInfo,
    Transform,
    check,
    expected,
    link,
    read,
    write,
)
from duologue.config import CSM_PRESETS, MIMI_PRESETS
from duologue.errors import CheckpointError

RULES = (
    Rule("layers.{n}.map.weight", "blocks.{2n+1}.w"),
    Rule(("layers.{n}.q", "layers.{n}.k"), "blocks.{2n}.qk", Fused(2), aliases=("blocks.{2n}.joint",)),
    Rule("table", "first.table", copies=("second.table",)),
    Rule("usage", "book.usage", marker="book.ready"),
)
OURS = {
    "layers.0.map.weight": torch.arange(6.0).view(2, 3),
    "layers.1.map.weight": torch.arange(6.0, 12.0).view(2, 3),
    "layers.0.q": torch.ones(1, 3),
    "layers.0.k": torch.zeros(1, 3),
    "layers.1.q": torch.full((1, 3), 2.0),
    "layers.1.k": torch.full((1, 3), 3.0),
    "table": torch.eye(4),
    "usage": torch.full((4,), 5.0),
}


class Memory:
    """Tensors in a dict, as a source."""

    where = "memory"

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = tensors

    @property
    def infos(self) -> dict[str, TensorInfo]:
        return {name: TensorInfo(tensor.dtype, tuple(tensor.shape)) for name, tensor in self.tensors.items()}

    def read(self, name: str) -> Tensor:
        return self.tensors[name].clone()


def links() -> list[Link]:
    return link(RULES, {name: tensor.shape for name, tensor in OURS.items()})


def foreign() -> dict[str, Tensor]:
    return dict(write(links(), OURS))


def test_names_and_shapes_of_the_foreign_side() -> None:
    assert expected(links()) == {
        "blocks.1.w": (2, 3),
        "blocks.3.w": (2, 3),
        "blocks.0.qk": (2, 3),
        "blocks.2.qk": (2, 3),
        "first.table": (4, 4),
        "book.usage": (4,),
        "book.ready": (1,),
    }
    assert {name: tuple(tensor.shape) for name, tensor in foreign().items()} == expected(links())


def test_what_was_written_is_read_back() -> None:
    source = Memory(foreign())
    check(links(), source.infos, "memory")
    loaded = dict(read(links(), source, OURS))
    assert loaded.keys() == OURS.keys()
    assert all(torch.equal(loaded[name], OURS[name]) for name in OURS)
    assert foreign()["book.ready"].item() == 1


def test_only_what_is_asked_for_is_read() -> None:
    assert dict(read(links(), Memory({"first.table": torch.eye(4)}), ["table"])).keys() == {"table"}


@pytest.mark.parametrize(
    "names",
    [
        {"blocks.0.qk": "blocks.0.joint"},
        {"first.table": "second.table"},
        {"book.ready": None},
    ],
)
def test_other_spellings_are_read(names: dict[str, str | None]) -> None:
    tensors = foreign()
    for name, other in names.items():
        tensor = tensors.pop(name)
        if other is not None:
            tensors[other] = tensor
    check(links(), Memory(tensors).infos, "memory")
    loaded = dict(read(links(), Memory(tensors), OURS))
    assert all(torch.equal(loaded[name], OURS[name]) for name in OURS)


def test_a_copy_must_be_equal() -> None:
    tensors = foreign()
    tensors["second.table"] = torch.eye(4)
    check(links(), Memory(tensors).infos, "memory")
    assert dict(read(links(), Memory(tensors), OURS)).keys() == OURS.keys()
    tensors["second.table"][0, 1] = 1e-6
    with pytest.raises(CheckpointError, match=r"memory: first\.table and second\.table differ"):
        dict(read(links(), Memory(tensors), OURS))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blocks.1.w": None}, r"m: tensors do not fit the model: 1 missing \(blocks\.1\.w\)$"),
        ({"first.table": None}, r"1 missing \(first\.table\)"),
        ({"book.usage": None}, r"1 missing \(book\.usage\)"),
        ({"extra": torch.ones(2)}, r"1 unknown \(extra\)"),
        ({"blocks.0.joint": torch.ones(2, 3)}, r"1 doubled \(blocks\.0\.qk and blocks\.0\.joint\)"),
        ({"blocks.1.w": torch.ones(3, 2)}, r"1 misshapen \(blocks\.1\.w \[3, 2\] instead of \[2, 3\]\)"),
        ({"second.table": torch.ones(4)}, r"1 misshapen \(second\.table \[4\] instead of \[4, 4\]\)"),
        ({"blocks.1.w": torch.ones(2, 3, dtype=torch.int64)}, r"1 not float \(blocks\.1\.w of int64\)"),
        ({"blocks.1.w": None, "extra": torch.ones(2)}, r"1 missing \(blocks\.1\.w\); 1 unknown \(extra\)"),
    ],
)
def test_what_does_not_fit_is_listed(change: dict[str, Tensor | None], message: str) -> None:
    tensors = {name: tensor for name, tensor in (foreign() | change).items() if tensor is not None}
    with pytest.raises(CheckpointError, match=message):
        check(links(), Memory(tensors).infos, "m")


def test_long_lists_are_counted() -> None:
    tensors = foreign() | {f"extra{index:02}": torch.ones(1) for index in range(25)}
    with pytest.raises(CheckpointError, match=r"25 unknown \(extra00, .*, extra09 and 15 more\)") as caught:
        check(links(), Memory(tensors).infos, "m")
    assert "extra10" not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "rules",
    [RULES[:-1], (*RULES, Rule("table", "third.table"))],
    ids=["no rule for a tensor", "two rules for a tensor"],
)
def test_a_table_matches_each_of_our_tensors_once(rules: tuple[Rule, ...]) -> None:
    with pytest.raises(AssertionError):
        link(rules, {name: tensor.shape for name, tensor in OURS.items()})


@given(
    heads=st.integers(1, 4),
    half=st.integers(1, 4),
    width=st.integers(1, 3),
    transform=st.sampled_from(["rope", "pointwise", "fused", "same"]),
    seed=st.integers(0, 99),
)
def test_saving_undoes_loading(heads: int, half: int, width: int, transform: str, seed: int) -> None:
    shape = {"pointwise": (heads, width, 1), "fused": (3 * heads, width)}.get(transform, (heads * 2 * half, width))
    kinds: dict[str, Transform] = {
        "rope": HalfSplit(2 * half),
        "pointwise": Pointwise(),
        "fused": Fused(3),
        "same": Same(),
    }
    theirs = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    kind = kinds[transform]
    assert torch.equal(kind.save(kind.load(theirs)), theirs)
    assert torch.equal(kind.load(kind.save(kind.load(theirs)))[0], kind.load(theirs)[0])


def test_rotary_halves_become_neighbours() -> None:
    """Two heads of four channels: halves (0, 1), (2, 3) are pairs (0, 2), (1, 3)."""
    rows = torch.arange(8.0)[:, None]
    assert HalfSplit(4).load(rows)[0].flatten().tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


@pytest.mark.parametrize("layout", ["native", "sesame", "transformers"])
@pytest.mark.parametrize("preset", CSM_PRESETS)
def test_every_preset_has_a_place_in_every_layout(layout: str, preset: str) -> None:
    module = build_csm(CSM_PRESETS[preset])
    names = [name for item in csm_links(layout, module) for name in (item.foreign, *item.aliases, *item.copies)]
    assert len(set(names)) == len(names)
    assert {name for item in csm_links(layout, module) for name in item.ours} == set(module.state_dict())


@pytest.mark.parametrize("layout", ["native", "transformers", "moshi-mimi", "transformers-mimi"])
@pytest.mark.parametrize("preset", MIMI_PRESETS)
def test_every_codec_has_a_place_in_every_layout(layout: str, preset: str) -> None:
    module = build_codec(MIMI_PRESETS[preset])
    found = codec_links(layout, module)
    names = [name for item in found for name in (item.foreign, *item.aliases, *item.copies)]
    assert len(set(names)) == len(names)
    assert {name for item in found for name in item.ours} == set(module.state_dict())
