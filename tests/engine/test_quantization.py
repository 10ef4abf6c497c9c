"""Eight bits: close to the float model, the same in any company to the last bit, refused where they cannot run."""

import copy
import gc
import warnings

import pytest
import torch
from torch import nn

import duologue
from duologue.checkpoints import save_checkpoint
from duologue.checkpoints.packing import pack, unpack
from duologue.engine import quantization
from duologue.engine.layout import lay_out
from duologue.engine.quantization import Int8CSM, Int8Embedding, Int8Linear, check_quantization
from duologue.engine.sampling import SamplingOptions
from duologue.errors import CheckpointError, OptionError
from duologue.nn.conv import CausalConv1d, CausalConvTranspose1d
from tests.engine.builders import prompt, tiny_csm, tiny_mimi
from tests.engine.test_batch import spoken


def relative_error(got: torch.Tensor, expected: torch.Tensor) -> float:
    return float((got - expected).norm() / expected.norm())


def test_several_layers_over_one_input_are_close_to_their_products():
    torch.manual_seed(0)
    weights = [torch.randn(size, 96) for size in (64, 32, 7)]
    x = torch.randn(2, 5, 96) * torch.logspace(-4, 3, 5)[:, None]  # rows of very different sizes
    parts = Int8Linear(weights)(x).split([64, 32, 7], dim=-1)
    for part, weight in zip(parts, weights, strict=True):
        for row, expected in zip(part.flatten(0, 1), (x @ weight.T).flatten(0, 1), strict=True):
            assert relative_error(row, expected) < 0.03
    assert torch.equal(Int8Linear(weights)(torch.zeros(3, 96)), torch.zeros(3, 103))


@pytest.mark.parametrize(
    ("found", "levels"),
    [({}, 63), ({"avx_vnni": True}, 63), ({"avx512_vnni": True}, 127), ({"avx512_vnni": False, "avx_vnni": True}, 63)],
)
def test_inputs_have_the_bits_that_the_kernel_can_add(monkeypatch, found, levels):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)
    assert quantization._input_levels.__wrapped__() == levels


def test_a_row_does_not_depend_on_its_neighbours():
    torch.manual_seed(1)
    layer = Int8Linear([torch.randn(50, 33)])
    x = torch.randn(17, 33) * torch.logspace(-3, 2, 17)[:, None]
    whole = layer(x)
    for count in (1, 2, 3, 8):
        for start in range(0, 17 - count):
            assert torch.equal(layer(x[start : start + count]), whole[start : start + count])


def test_a_copy_outlives_its_original_and_weights_go_with_the_last():
    layer = Int8Linear([torch.randn(8, 16)])
    number, x = layer.number, torch.randn(2, 16)
    expected, copied = layer(x), copy.deepcopy(layer)
    del layer
    assert torch.equal(copied(x), expected) and number in quantization._PACKED
    del copied
    gc.collect()
    assert number not in quantization._PACKED


def test_what_was_packed_is_found_again():
    codes, scale = pack(torch.randn(40, 64))
    again, same = pack(unpack(codes, scale), num_scales=1)
    assert torch.equal(again, codes)
    torch.testing.assert_close(same, scale)


def test_embeddings_are_rows_with_a_scale():
    weight = torch.randn(10, 16)
    ids = torch.tensor([[3, 3], [0, 9]])
    assert relative_error(Int8Embedding(weight)(ids), weight[ids]) < 0.01


def test_a_model_computes_nearly_what_it_did():
    model = tiny_csm()
    packed = Int8CSM(copy.deepcopy(model))
    rows = prompt(model, 9, 12, seed=2)
    codes = rows.tokens[:12, :-1]
    with torch.no_grad():
        hidden, other = (one(rows.tokens[None], rows.mask[None])[0] for one in (model, packed))
        assert relative_error(other, hidden) < 0.05
        assert relative_error(packed.codebook0_logits(hidden), model.codebook0_logits(hidden)) < 0.03
        expected = model.depth_logits(hidden[:12], codes)
        got = packed.depth_logits(hidden[:12], codes)
        assert relative_error(got, expected) < 0.05
        state = packed.init_depth_state(12)
        inputs = torch.stack((hidden[:12], packed.embed_audio(codes[:, 0], 0)), dim=1)
        step = packed.depth_head(packed.depth_step(inputs, state), 1)
        torch.testing.assert_close(step, got[:, 0], atol=1e-4, rtol=1e-4)
    assert packed.dtype == torch.float32 and packed.num_codebooks == model.num_codebooks


def test_a_batch_says_what_each_would_say_alone():
    packed = Int8CSM(tiny_csm())
    prompts = [prompt(packed, text, frames, seed=text) for text, frames in ((3, 0), (20, 9), (12, 7), (1, 1))]
    options = [SamplingOptions(0.9, 50, seed, guidance=1.0 + seed % 2) for seed in range(4)]
    together = spoken(packed, prompts, options, [9] * 4)
    alone = [spoken(packed, [one], [option], [9])[0] for one, option in zip(prompts, options, strict=True)]
    assert together == alone


@pytest.mark.parametrize("quantize", [None, "int8"])
def test_the_bundled_model_streams_what_its_codes_decode_to(quantize):
    generator = duologue.load("parlor", "cpu", quantize=quantize)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", duologue.DuologueWarning)  # it may reach the cap
        speech = generator.speak("Good morning.", max_audio_length_ms=2400, seed=3)
        again = generator.speak("Good morning.", max_audio_length_ms=2400, seed=3)
    assert torch.equal(speech.codes, again.codes) and len(speech.audio) >= 8 * 1920
    assert speech.audio.abs().max() > 0.05
    whole = generator.codec.decode(speech.codes[None])[0, 0]
    torch.testing.assert_close(speech.audio, whole, atol=1e-4, rtol=0)


def test_a_packed_model_is_not_saved(tmp_path):
    with pytest.raises(CheckpointError, match="save it before it is quantized"):
        save_checkpoint(tmp_path / "a", "native", model=Int8CSM(tiny_csm()))


@pytest.mark.parametrize(
    ("how", "device", "dtype", "match"),
    [
        ("int4", "cpu", torch.float32, "quantize 'int4'; expected 'int8' or None"),
        ("int8", "cuda", torch.float32, "is for the CPU"),
        ("int8", "cpu", torch.bfloat16, "leave dtype torch.bfloat16 out"),
    ],
)
def test_where_it_cannot_run(how, device, dtype, match):
    with pytest.raises(OptionError, match=match):
        check_quantization(how, torch.device(device), dtype)


@pytest.mark.parametrize("by_output", [False, True])
def test_weights_laid_out_for_few_rows_are_the_same(tmp_path, by_output):
    model, codec = tiny_csm(), tiny_mimi()
    before = [{name: tensor.clone() for name, tensor in one.state_dict().items()} for one in (model, codec)]
    rows, codes = prompt(model, 5, 3, seed=1), torch.randint(0, 64, (1, codec.num_codebooks, 4))
    with torch.no_grad():
        hidden, pcm = model(rows.tokens[None], rows.mask[None]), codec.decode(codes)
        assert lay_out(model, by_output=by_output) is model and lay_out(codec, by_output=by_output) is codec
        torch.testing.assert_close(model(rows.tokens[None], rows.mask[None]), hidden, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(codec.decode(codes), pcm, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(codec.encode(pcm), tiny_mimi().encode(pcm))
    for one, values in zip((model, codec), before, strict=True):
        assert all(torch.equal(tensor, values[name]) for name, tensor in one.state_dict().items())
        for module in one.modules():
            if isinstance(module, nn.Linear | nn.Conv1d):
                weight = module.weight.flatten(1)
                assert (weight.t() if not by_output and len(weight) >= weight.shape[1] else weight).is_contiguous()
            if by_output and isinstance(module, CausalConv1d | CausalConvTranspose1d) and module.conv.groups == 1:
                assert module.matrix().is_contiguous() and module.matrix().data_ptr() == module.conv.weight.data_ptr()
    assert model.audio_head.transpose(1, 2).is_contiguous() is by_output
    save_checkpoint(tmp_path / "a", "native", model=model, codec=codec)


def test_a_row_is_the_same_to_the_last_bit_beside_rows_that_have_come_further():
    """In eight bits a rounded sum may be another step of an input, and that another code."""
    torch.manual_seed(0)
    backbone = duologue.load(quantize="int8").model.backbone
    rows = [torch.randn(1, length, backbone.config.dim) for length in (41, 57, 200)]
    together, alone = backbone.init_state(len(rows), 300), [backbone.init_state(1, 300) for _ in rows]
    with torch.inference_mode():
        for index, row in enumerate(rows):
            backbone(row, alone[index])
            backbone(row, together.rows(index, index + 1))
        together.extent = max(row.shape[1] for row in rows)
        together.is_even = False
        for _ in range(3):
            steps = torch.randn(len(rows), 1, backbone.config.dim)
            found = backbone(steps, together)
            for index, state in enumerate(alone):
                assert torch.equal(found[index : index + 1], backbone(steps[index : index + 1], state))
