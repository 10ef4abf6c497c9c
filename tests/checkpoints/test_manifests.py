"""Our tables against the names and shapes of the published checkpoints."""

import math
from dataclasses import replace

import pytest
import torch

from duologue.checkpoints import csm_config, moshi_mimi, sesame, transformers_mimi
from duologue.checkpoints.layouts import build_codec, build_csm, codec_links, csm_links
from duologue.checkpoints.rules import TensorInfo, check, expected
from duologue.config import CSM_PRESETS, MIMI_PRESETS, TextConfig
from tests.checkpoints import manifests
from tests.checkpoints.manifests import Shapes, file_size, index_size

TIED = {"backbone_model.embed_tokens.embed_audio_tokens.weight", "depth_decoder.model.embed_tokens.weight"}


def infos(shapes: Shapes) -> dict[str, TensorInfo]:
    return {name: TensorInfo(torch.float32, shape) for name, shape in shapes.items()}


def test_sizes_of_the_published_files() -> None:
    """As listed on the hub: sesame/csm-1b at c92a71e1, kyutai/moshiko-pytorch-bf16 at 2bfc9ae6, MisoLabs/MisoTTS."""
    assert file_size(manifests.load("csm-1b.sesame")) == 6_211_186_784
    assert file_size(manifests.load("mimi.moshi")) == 384_644_900
    whole = manifests.load("csm-1b.transformers")
    assert len(whole) == 538
    assert index_size(whole, "transformers-00001-of-00002.safetensors") == 59_730
    headers = 4_944_026_784 + 2_189_474_180 - sum(4 * math.prod(shape) for shape in whole.values())
    assert 0 < headers < 100_000
    assert round(file_size(manifests.load("misotts.sesame")) / 1e9, 1) == 32.8


def test_csm_1b_in_sesames_layout() -> None:
    published = manifests.load("csm-1b.sesame")
    assert expected(csm_links("sesame", build_csm(CSM_PRESETS["csm-1b"]))) == published
    assert sesame.read_config(None, infos(published), "here") == CSM_PRESETS["csm-1b"]
    own = sesame.write_config(CSM_PRESETS["csm-1b"])
    assert own == {
        "audio_num_codebooks": 32,
        "audio_vocab_size": 2051,
        "backbone_flavor": "llama-1B",
        "decoder_flavor": "llama-100M",
        "text_vocab_size": 128_256,
    }
    assert sesame.read_config(own, infos(published), "here") == CSM_PRESETS["csm-1b"]


def test_csm_1b_in_transformers_layout() -> None:
    published = manifests.load("csm-1b.transformers")
    links = [
        *csm_links("transformers", build_csm(CSM_PRESETS["csm-1b"])),
        *codec_links("transformers", build_codec(MIMI_PRESETS["mimi"])),
    ]
    check(links, infos(published), "here")
    written = expected(links)
    assert len(written) == 537 and published.items() >= written.items()
    assert published.keys() - written.keys() < TIED


# What the hub's config.json says, as far as it is known: the ropes of `convert_csm.py` in transformers 4.52.
HUB_CONFIG = {
    "model_type": "csm",
    "backbone_flavor": "llama-1B",
    "decoder_flavor": "llama-100M",
    "hidden_size": 2048,
    "rope_theta": 500_000,
    "rope_scaling": {
        "factor": 32.0,
        "high_freq_factor": 0.5,
        "low_freq_factor": 0.125,
        "original_max_position_embeddings": 1024,
        "rope_type": "llama3",
    },
    "depth_decoder_config": {
        "rope_theta": 500_000,
        "rope_scaling": {
            "factor": 32.0,
            "high_freq_factor": 0.0078125,
            "low_freq_factor": 0.001953125,
            "original_max_position_embeddings": 16,
            "rope_type": "llama3",
        },
    },
    "codec_config": {"model_type": "mimi", "frame_rate": 12.5, "rope_theta": 10_000.0},
}


def test_the_hubs_config_is_csm_1b() -> None:
    preset = CSM_PRESETS["csm-1b"]
    published = replace(preset, depth=replace(preset.depth, max_positions=33))
    assert csm_config.from_transformers(HUB_CONFIG, "here") == published
    assert transformers_mimi.read_config(HUB_CONFIG["codec_config"], "here") == MIMI_PRESETS["mimi"]  # type: ignore[arg-type]
    # The original tensors lie beside the same file.
    assert sesame.read_config(HUB_CONFIG, infos(manifests.load("csm-1b.sesame")), "here") == published
    assert sesame.write_config(published) == sesame.write_config(preset)


@pytest.mark.parametrize("preset", CSM_PRESETS)
def test_presets_survive_transformers_config(preset: str) -> None:
    config = CSM_PRESETS[preset]
    assert csm_config.from_transformers(csm_config.to_transformers(config), "here") == config


@pytest.mark.parametrize("preset", MIMI_PRESETS)
def test_codec_presets_survive_foreign_configs(preset: str) -> None:
    config = MIMI_PRESETS[preset]
    assert transformers_mimi.read_config(transformers_mimi.write_config(config), "here") == config
    shapes = expected(codec_links("moshi-mimi", build_codec(config)))
    assert moshi_mimi.read_config(moshi_mimi.write_config(config), infos(shapes), "here") == config


def test_misotts() -> None:
    published = manifests.load("misotts.sesame")
    config = sesame.read_config(None, infos(published), "here")
    assert config.text == TextConfig(template="[{speaker}] {text}")
    assert (config.num_codebooks, config.text_vocab_size, config.codebook_size) == (32, 128_256, 2048)
    links = csm_links("sesame", build_csm(config))
    check(links, infos(published), "here")
    assert expected(links) == published
    assert sesame.read_config(sesame.write_config(config), infos(published), "here") == config


@pytest.mark.parametrize("layout", ["moshi", "transformers"])
def test_mimi(layout: str) -> None:
    published = manifests.load(f"mimi.{layout}")
    codec = build_codec(MIMI_PRESETS["mimi"])
    assert expected(codec_links(f"{layout}-mimi", codec)) == published
    # The markers may be missing, as in files of other writers.
    bare = {name: shape for name, shape in published.items() if not name.endswith("initialized")}
    assert len(bare) == len(published) - 32
    check(codec_links(f"{layout}-mimi", codec), infos(bare), "here")


def test_moshis_file_is_the_published_codec() -> None:
    published = manifests.load("mimi.moshi")
    assert moshi_mimi.read_config(None, infos(published), "here") == MIMI_PRESETS["mimi"]
    fewer = {name: shape for name, shape in published.items() if "rvq_rest.vq.layers.30." not in name}
    assert moshi_mimi.read_config(None, infos(fewer), "here").num_codebooks == 31


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("name", manifests.NAMES)
def test_manifests_are_those_of_the_foreign_classes(name: str) -> None:
    if name.endswith("transformers"):
        pytest.importorskip("transformers")
    if name.endswith("moshi"):
        pytest.importorskip("moshi")
    assert manifests.build(name) == manifests.load(name)
