"""Write speech while it is being made, chunk by chunk."""

import duologue
from duologue.audio import StreamWriter

gen = duologue.load()
stream = gen.stream("Here it comes.", speaker=0)
with StreamWriter("stream.wav", gen.sample_rate) as writer, stream:
    for chunk in stream:  # float32 [num_samples], whole frames; a player would take it here
        writer.write(chunk)
speech = stream.result
if speech.first_audio_s is not None:
    print(f"first audio after {speech.first_audio_s:.2f} s, real-time factor {speech.real_time_factor:.2f}")
