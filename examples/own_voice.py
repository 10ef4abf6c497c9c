"""A voice of your own. Run as: python examples/own_voice.py [RECORDING TRANSCRIPT]

5 to 10 s of one person who agreed to it, without noise or music, and what is said in it, to the letter.
"""

import sys

import duologue
from duologue.audio import read_audio, write_audio

path, transcript = sys.argv[1:3] if len(sys.argv) > 2 else ("recording.wav", "What is said in the recording.")
gen = duologue.load(voices_dir="my-voices")
recording, _ = read_audio(path, gen.sample_rate)
if "mine" not in gen.voices.names:
    gen.voices.add("mine", recording, transcript)  # kept in my-voices/mine.safetensors
audio = gen.generate("This is me.", voice="mine")
write_audio("own_voice.wav", audio, gen.sample_rate)
