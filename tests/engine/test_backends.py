"""Compiled, the parts of a frame give what they give eager; where they cannot be compiled, loading says so."""

import gc
import shutil
import warnings
import weakref
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch._dynamo.testing import CompileCounter

import duologue
from duologue.codec.mimi import Mimi
from duologue.config import MIMI_PRESETS, HarmonicConfig
from duologue.engine import compiling as compiling_module
from duologue.engine import warming
from duologue.engine.backends import EAGER, find_backend
from duologue.engine.batch import FrameBatch, FrameRequest
from duologue.engine.compiling import Compiled, compiling
from duologue.engine.generator import Generator
from duologue.engine.layout import lay_out
from duologue.engine.native import load_operators
from duologue.engine.quantization import Int8CSM
from duologue.engine.sampling import BatchSampling, SamplingOptions
from duologue.engine.scheduler import Scheduler
from duologue.engine.warming import warm_up, warm_up_codec
from duologue.errors import OptionError
from tests.engine.builders import fill_codebooks, prompt, tiny_csm, tiny_mimi

needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None, reason="no C++ compiler here"
)


@pytest.fixture
def quiet() -> Iterator[None]:
    """What torch says while it compiles is no error of ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def frames_of(model, requests, backend) -> list[torch.Tensor]:
    """The frames `[K, T]` of requests that join one after the other, a frame apart."""
    batch = FrameBatch(model, 2 * len(requests), backend=backend)
    speaking = []
    for request in requests:
        speaking.append(batch.join(request))
        batch.step()
    while any(one.stop_reason is None for one in speaking):
        batch.step()
    return [torch.stack(one.frames, dim=1) for one in speaking]


@needs_compiler
def test_compiled_frames_are_the_eager_frames(model, quiet):
    rows, compiled = prompt(model, 5, 4, seed=3), find_backend("compiled")
    request = FrameRequest(rows, SamplingOptions(seed=0, guidance=2.0), 4)
    (expected,), (got,) = (frames_of(model, [request], backend) for backend in (EAGER, compiled))
    assert torch.equal(got, expected) and got.shape[1] == 4


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("length", [1, 2])
@pytest.mark.parametrize("harmonic", [None, HarmonicConfig(num_channels=16, num_bands=24)])
def test_a_stream_beyond_the_codecs_memory_needs_no_new_graph(harmonic, length, quiet):
    torch.manual_seed(0)
    config = replace(MIMI_PRESETS["tiny"], harmonic=harmonic)
    codec, compiled = fill_codebooks(Mimi(config), seed=0).eval().steadied(), find_backend("compiled")
    lay_out(codec, by_output=True)
    warm_up_codec(codec, compiled)
    state = codec.init_decoder_state(1)
    num_frames = state.transformer.capacity // config.resample_stride + 4
    codes = torch.randint(0, config.codebook_size, (1, codec.num_codebooks, num_frames))
    with torch.compiler.set_stance("fail_on_recompile"):
        streamed = [compiled.decode_frames(codec, chunk, state) for chunk in codes.split(length, dim=-1)]
    torch.testing.assert_close(torch.cat(streamed, dim=-1), codec.decode(codes), atol=1e-5, rtol=0)


@pytest.mark.slow
@needs_compiler
def test_compiled_speech_is_the_eager_speech(model, codec, tokenizer, quiet):
    compiled = find_backend("compiled")
    lay_out(codec, by_output=True)
    eager, other = Generator(model, codec, tokenizer), Generator(model, codec, tokenizer, backend=compiled)
    warm_up(model, codec, compiled, num_streams=2)
    for seed, guidance in ((0, 2.0), (1, 1.0)):
        options = {"seed": seed, "guidance": guidance, "max_audio_length_ms": 800}
        expected, got = (one.speak("hello there", **options) for one in (eager, other))
        assert torch.equal(got.codes, expected.codes) and got.codes.shape[1] > 1
        torch.testing.assert_close(got.audio, expected.audio, atol=1e-4, rtol=0)
    requests = [
        FrameRequest(prompt(model, text, frames, seed=text), SamplingOptions(seed=text, guidance=2.0), 5)
        for text, frames in ((3, 0), (9, 4), (6, 1))
    ]
    for speaker in (model, tiny_csm(seed=7)):  # the second has the shapes of the first, and weights of its own
        expected, got = (frames_of(speaker, requests, backend) for backend in (EAGER, compiled))
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(got, expected, strict=True))
    with Scheduler(other, max_streams=2) as scheduler:
        streams = [scheduler.submit("hello there", seed=0, guidance=2.0, max_audio_length_ms=800) for _ in range(2)]
        for stream in streams:
            list(stream)
            alone = eager.speak("hello there", seed=0, guidance=2.0, max_audio_length_ms=800)
            assert stream.result is not None and torch.equal(stream.result.codes, alone.codes)


@needs_compiler
def test_eight_bits_compile_too(quiet):
    check_eight_bits(Int8CSM(tiny_csm()))


@pytest.mark.slow
@needs_compiler
def test_eight_bits_compile_without_python(quiet):
    packed = Int8CSM(tiny_csm(), native=load_operators())
    with compiling(long_loops=False):
        check_eight_bits(packed)


def check_eight_bits(packed: Int8CSM) -> None:
    compiled = find_backend("compiled")
    rows = prompt(packed, 9, 12, seed=2)
    tokens, mask = rows.tokens[None, -1:], rows.mask[None, -1:]
    states = [packed.init_state(1, 40) for _ in range(2)]
    with torch.inference_mode():
        for state in states:
            packed(rows.tokens[None, :-1], rows.mask[None, :-1], state)
        expected, got = (
            backend.read_frames(packed, tokens, mask, state, None)
            for backend, state in zip((EAGER, compiled), states, strict=True)
        )
        torch.testing.assert_close(got, expected, atol=1e-3, rtol=1e-3)
        sampling = BatchSampling.of([SamplingOptions(seed=0)], packed.config.codebook_size, "cpu")
        noise = torch.zeros(1, packed.num_codebooks, packed.config.audio_vocab_size)
        given = torch.randn(1, 2, packed.config.backbone.dim, generator=torch.Generator().manual_seed(0))
        follows, depth = torch.zeros(1, dtype=torch.int64), packed.init_depth_state(1)
        for codebook in range(1, packed.num_codebooks):  # one graph with the heads by number
            one = EAGER.next_codes(packed, sampling, follows, depth.clone(), given, codebook, 1, noise)
            with torch._dynamo.config.patch(error_on_recompile=codebook > 2):
                two = compiled.next_codes(packed, sampling, follows, depth, given, codebook, 1, noise)
            assert torch.equal(one[0], two[0])
            torch.testing.assert_close(one[1], two[1])
            given = one[1]


def test_each_module_has_graphs_of_its_own(quiet):
    counted = CompileCounter()

    def apply(layer, x):
        return layer(x)

    def assert_applied(layer, x, num_graphs):
        torch.testing.assert_close(compiled(layer, x), layer(x))
        assert counted.frame_count == num_graphs

    compiled, real = Compiled(apply), torch.compile

    class Layer(torch.nn.Linear):
        def __init__(self):
            super().__init__(3, 5)
            self.steady = torch.ones(3)  # not cast with the weights

        def forward(self, x):
            return super().forward((x * self.steady).to(self.weight.dtype))

    first, second = Layer(), Layer()
    second.hidden = torch.nn.Linear(1, 1)  # a module of other contents
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", lambda function, **options: real(function, backend=counted, **options))
        assert_applied(first, torch.randn(2, 3), 1)
        assert_applied(first, torch.randn(2, 3), 1)
        assert_applied(second, torch.randn(2, 3), 2)
        assert_applied(first, torch.randn(2, 3), 2)
        with torch.no_grad():
            first.weight.add_(1)
        assert_applied(first, torch.randn(2, 3), 2)
        assert_applied(first.double(), torch.randn(2, 3), 3)
        kept = weakref.ref(second)
        del second
        gc.collect()
        assert kept() is None


def test_loops_over_a_row_have_one_thread(monkeypatch):
    loaded = []
    monkeypatch.setattr(compiling_module, "load_operators", lambda: loaded.append(True))
    before = torch._inductor.config.cpp.threads
    with compiling(long_loops=False):
        assert torch._inductor.config.cpp_wrapper and torch._inductor.config.cpp.threads == 1
    with compiling(long_loops=True):
        assert torch._inductor.config.cpp_wrapper and torch._inductor.config.cpp.threads == before
    assert not torch._inductor.config.cpp_wrapper and len(loaded) == 2


def test_codes_are_drawn_together_where_that_is_a_small_graph():
    config = tiny_csm().config
    assert EAGER.codes_together(tiny_csm()) == config.num_codebooks - 1
    deep = replace(config, depth=replace(config.depth, num_layers=100))
    assert EAGER.codes_together(SimpleNamespace(config=deep, num_codebooks=deep.num_codebooks)) == 1


def test_backends_have_names():
    assert find_backend("eager") is EAGER
    assert find_backend("compiled") is find_backend("compiled")
    with pytest.raises(OptionError, match="backend 'onnx'; expected 'eager', 'compiled' or 'cuda-graphs'"):
        find_backend("onnx")


def test_where_it_cannot_compile_loading_says_so(tmp_path, monkeypatch, tokenizer):
    model, codec = tiny_csm(), tiny_mimi()

    def broken(*_):
        raise torch._inductor.exc.InductorError(torch._inductor.exc.InvalidCxxCompiler(), None)

    monkeypatch.setattr(warming, "_speak", broken)
    with pytest.raises(OptionError, match=r"'compiled' does not compile here.*needs a C"):
        warm_up(model, codec, find_backend("compiled"))
    with pytest.raises(OptionError, match="backend 'fast'"):
        duologue.load(tmp_path, backend="fast")
