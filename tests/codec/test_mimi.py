"""Mimi: streaming equals offline both ways, batches equal single clips, nothing looks ahead, bad input is refused."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from duologue.codec import mimi as mimi_module
from duologue.codec.mimi import Mimi
from duologue.config import MIMI_PRESETS
from duologue.errors import AudioError, CodeError
from tests.engine.builders import fill_codebooks, tiny_mimi

FRAME = MIMI_PRESETS["tiny"].frame_size
WINDOW_FRAMES = 12 // 2  # the tiny transformers' window, in frames

chunk_sizes = st.lists(st.integers(1, 9), min_size=1, max_size=4)


@pytest.fixture(scope="module")
def codec() -> Mimi:
    return tiny_mimi()


def random_codes(codec: Mimi, batch: int, num_frames: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, codec.num_codebooks, num_frames)
    return torch.randint(0, codec.config.codebook_size, shape, generator=generator)


def noise(batch: int, num_samples: int, seed: int = 0) -> torch.Tensor:
    return 0.3 * torch.randn(batch, 1, num_samples, generator=torch.Generator().manual_seed(seed))


def test_the_published_shape():
    codec = Mimi(MIMI_PRESETS["mimi"])
    assert (codec.sample_rate, codec.frame_size, codec.frame_rate, codec.num_codebooks) == (24_000, 1920, 12.5, 32)
    # 79.3 M parameters in the published file, its codebooks (buffers) not counted, and the four projections among them.
    assert 70e6 < sum(parameter.numel() for parameter in codec.parameters()) < 90e6


@settings(max_examples=8)
@given(chunks=chunk_sizes, seed=st.integers(0, 100))
def test_streaming_decode_equals_offline(codec, chunks, seed):
    codes = random_codes(codec, 2, sum(chunks), seed)
    offline = codec.decode(codes)
    state = codec.init_decoder_state(2)
    streamed = torch.cat([codec.decode(piece, state) for piece in codes.split(chunks, dim=-1)], dim=-1)
    assert offline.shape == (2, 1, sum(chunks) * FRAME)
    torch.testing.assert_close(streamed, offline, atol=1e-4, rtol=1e-4)


@settings(max_examples=8)
@given(chunks=chunk_sizes, seed=st.integers(0, 100))
def test_streaming_encode_equals_offline(codec, chunks, seed):
    pcm = noise(2, sum(chunks) * FRAME, seed)
    latents = codec.encode_latent(pcm)
    state, latent_state = codec.init_encoder_state(2), codec.init_encoder_state(2)
    pieces = pcm.split([size * FRAME for size in chunks], dim=-1)
    with torch.no_grad():
        streamed = torch.cat([codec.encode_latent(piece, latent_state) for piece in pieces], dim=1)
    torch.testing.assert_close(streamed, latents, atol=1e-4, rtol=1e-4)
    codes = torch.cat([codec.encode(piece, state) for piece in pieces], dim=-1)
    assert codes.shape == (2, codec.num_codebooks, sum(chunks)) and codes.dtype == torch.int64
    # A latent that lies between two vectors may fall to either side by rounding; none does with these seeds often.
    assert (codes == codec.encode(pcm)).float().mean() > 0.97


def test_the_transformers_see_their_window_and_no_further(codec):
    codes = random_codes(codec, 1, 60)
    changed = codes.clone()
    changed[..., 0] = (changed[..., 0] + 1) % codec.config.codebook_size
    before, after = codec.decode(codes), codec.decode(changed)
    assert not torch.equal(before[..., :FRAME], after[..., :FRAME])
    assert torch.equal(before[..., -20 * FRAME :], after[..., -20 * FRAME :])


def test_longer_than_the_window_matters(codec):
    """Without a window the result would differ: the stream's ring is not what makes them equal."""
    unlimited = Mimi(
        dataclasses.replace(codec.config, transformer=dataclasses.replace(codec.config.transformer, window=None))
    ).eval()
    unlimited.load_state_dict(codec.state_dict())
    codes = random_codes(codec, 1, 4 * WINDOW_FRAMES)
    start = WINDOW_FRAMES * FRAME // 2
    torch.testing.assert_close(unlimited.decode(codes)[..., :start], codec.decode(codes)[..., :start])
    assert not torch.allclose(unlimited.decode(codes), codec.decode(codes), atol=1e-3)


def test_long_recordings_go_in_pieces_with_the_same_result(codec, monkeypatch):
    num_frames = 2 * mimi_module._OFFLINE_FRAMES + 3
    codes = random_codes(codec, 1, num_frames)
    pcm = noise(1, num_frames * FRAME - 100)
    decoded, encoded = codec.decode(codes), codec.encode(pcm)
    monkeypatch.setattr(mimi_module, "_OFFLINE_FRAMES", 10_000)
    torch.testing.assert_close(decoded, codec.decode(codes), atol=1e-4, rtol=1e-4)
    assert encoded.shape == (1, codec.num_codebooks, num_frames)
    assert (encoded == codec.encode(pcm)).float().mean() > 0.97


def test_batched_clips_of_unequal_length_equal_each_alone(codec):
    lengths = [3 * FRAME, 7 * FRAME - 500, 20 * FRAME]
    clips = [noise(1, length, seed) for seed, length in enumerate(lengths)]
    batch = torch.zeros(len(clips), 1, max(lengths))
    for row, clip in enumerate(clips):
        batch[row, :, : clip.shape[-1]] = clip
    codes = codec.encode(batch)
    with torch.no_grad():
        latents = codec.encode_latent(batch)
    for row, clip in enumerate(clips):
        alone = codec.encode(clip)
        num_frames = -(-clip.shape[-1] // FRAME)
        assert alone.shape[-1] == num_frames
        whole = torch.nn.functional.pad(clip, (0, num_frames * FRAME - clip.shape[-1]))
        with torch.no_grad():
            latent = codec.encode_latent(whole)
        torch.testing.assert_close(latents[row : row + 1, :num_frames], latent, atol=1e-4, rtol=1e-4)
        assert (codes[row : row + 1, :, :num_frames] == alone).float().mean() > 0.97
        decoded = codec.decode(codes)[row : row + 1, :, : num_frames * FRAME]
        torch.testing.assert_close(decoded, codec.decode(codes[row : row + 1, :, :num_frames]), atol=1e-4, rtol=1e-4)


def test_a_prefix_does_not_depend_on_what_follows(codec):
    codes, other = random_codes(codec, 1, 12), random_codes(codec, 1, 12, seed=1)
    mixed = torch.cat((codes[..., :5], other[..., 5:]), dim=-1)
    torch.testing.assert_close(codec.decode(mixed)[..., : 5 * FRAME], codec.decode(codes)[..., : 5 * FRAME])
    pcm, noise_after = noise(1, 12 * FRAME), noise(1, 12 * FRAME, seed=1)
    mixed_pcm = torch.cat((pcm[..., : 5 * FRAME], noise_after[..., 5 * FRAME :]), dim=-1)
    with torch.no_grad():
        torch.testing.assert_close(
            codec.encode_latent(mixed_pcm)[:, :5], codec.encode_latent(pcm)[:, :5], atol=1e-4, rtol=1e-4
        )


def test_rows_of_a_stream_start_at_different_times(codec):
    first, second = random_codes(codec, 2, 4), random_codes(codec, 2, 5, seed=1)
    state = codec.init_decoder_state(2)
    codec.decode(first, state)
    state.reset(torch.tensor([1]))
    audio = codec.decode(second, state)
    torch.testing.assert_close(audio[1:], codec.decode(second[1:]), atol=1e-4, rtol=1e-4)
    whole = codec.decode(torch.cat((first, second), dim=-1)[:1])
    torch.testing.assert_close(audio[:1], whole[..., 4 * FRAME :], atol=1e-4, rtol=1e-4)


def test_a_stream_can_be_forked(codec):
    codes = random_codes(codec, 1, 6)
    state = codec.init_decoder_state(1)
    codec.decode(codes[..., :3], state)
    fork = state.clone()
    codec.decode(random_codes(codec, 1, 2, seed=5), state)
    torch.testing.assert_close(
        codec.decode(codes[..., 3:], fork), codec.decode(codes)[..., 3 * FRAME :], atol=1e-4, rtol=1e-4
    )


def test_fewer_codebooks_are_a_prefix(codec):
    pcm = noise(1, 4 * FRAME)
    codes = codec.encode(pcm)
    assert torch.equal(codec.encode(pcm, num_codebooks=2), codes[:, :2])
    assert codec.decode(codes[:, :1]).shape == (1, 1, 4 * FRAME)
    assert not torch.allclose(codec.decode(codes[:, :2]), codec.decode(codes))


def test_encoding_inverts_the_quantizer():
    """Codes of a latent that is exactly a sum of vectors come back; each choice is the nearest by brute force."""
    codec = fill_codebooks(Mimi(MIMI_PRESETS["tiny"]), seed=3)
    acoustic = codec.quantizer.acoustic
    residual = torch.randn(5, codec.config.codebook_dim)
    for codebook in acoustic:
        distances = torch.cdist(residual, codebook.vectors)
        chosen = codebook.encode(residual)
        assert torch.equal(chosen, distances.argmin(dim=-1))
        residual = residual - codebook.decode(chosen)


def test_changed_codebooks_are_used_at_once():
    codec = tiny_mimi()
    codes = random_codes(codec, 1, 2)
    before = codec.decode(codes)
    with torch.inference_mode():
        codec.decode(codes)
    for codebook in codec.quantizer.acoustic:
        codebook.embedding_sum.mul_(2.0)
        codebook.cluster_usage.mul_(2.0)
    torch.testing.assert_close(codec.decode(codes), before)
    for codebook in codec.quantizer.acoustic:
        codebook.embedding_sum.mul_(2.0)
    assert not torch.allclose(codec.decode(codes), before)
    places = {codebook.vectors.untyped_storage().data_ptr() for codebook in codec.quantizer.acoustic}
    assert len(places) == 1, "vectors lie in memory twice"


def test_empty_in_empty_out(codec):
    assert codec.encode(torch.zeros(2, 1, 0)).shape == (2, codec.num_codebooks, 0)
    assert codec.decode(torch.zeros(2, 4, 0, dtype=torch.int64)).shape == (2, 1, 0)


@pytest.mark.parametrize("codes", [-1, 64, 2048])
def test_codes_outside_the_codebook_are_refused(codec, codes):
    with pytest.raises(CodeError, match=rf"0\.\.63, found {codes}"):
        codec.decode(torch.full((1, 4, 2), codes))


@pytest.mark.parametrize("shape", [(1, 5, 2), (1, 0, 2), (4, 2)])
def test_codes_of_the_wrong_shape_are_refused(codec, shape):
    with pytest.raises(CodeError, match="shape"):
        codec.decode(torch.zeros(shape, dtype=torch.int64))


def test_audio_of_the_wrong_shape_is_refused(codec):
    with pytest.raises(AudioError, match="mono"):
        codec.encode(torch.zeros(1, 2, FRAME))
    with pytest.raises(AudioError, match="mono"):
        codec.encode(torch.zeros(FRAME))
    with pytest.raises(AudioError, match="whole frames"):
        codec.encode(torch.zeros(1, 1, FRAME + 1), codec.init_encoder_state(1))
    with pytest.raises(CodeError, match=r"1\.\.4"):
        codec.encode(torch.zeros(1, 1, FRAME), num_codebooks=5)
