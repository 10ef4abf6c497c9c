"""Say one sentence with the bundled model."""

import duologue
from duologue.audio import write_audio

gen = duologue.load()
audio = gen.generate("Nice to meet you.", speaker=0)
write_audio("quickstart.wav", audio, gen.sample_rate)
print(f"quickstart.wav: {len(audio) / gen.sample_rate:.1f} s")
