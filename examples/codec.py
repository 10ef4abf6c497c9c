"""The codec alone: a recording to codes and back. Run as: python examples/codec.py [RECORDING]"""

import sys

import torch

import duologue
from duologue.audio import read_audio, write_audio

path = sys.argv[1] if len(sys.argv) > 1 else "recording.wav"
codec = duologue.load_codec()
pcm, _ = read_audio(path, codec.sample_rate)  # [S]
codes = codec.encode(pcm[None, None])  # [1, K, T]
print(f"{codes.shape[2]} frames of {codes.shape[1]} codes for {len(pcm) / codec.sample_rate:.1f} s")

state = codec.init_decoder_state(1)  # decoded frame by frame, as a stream would be
frames = [codec.decode(codes[..., i : i + 1], state) for i in range(codes.shape[2])]
write_audio("decoded.wav", torch.cat(frames, dim=-1)[0, 0, : len(pcm)], codec.sample_rate)
