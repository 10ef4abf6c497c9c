"""Speak a conversation: every turn hears the ones before it."""

import torch

import duologue
from duologue.audio import write_audio

LINES = [(0, "Any news?"), (1, "Good news!")]

gen = duologue.load()
conversation = duologue.Conversation(gen)  # each speaker gets a voice of the model's
for speaker, text in LINES:
    speech = conversation.say(text, speaker, seed=speaker)
    print(f"{speaker}: {text} ({speech.duration_s:.1f} s, stopped by {speech.stop_reason})")
pause = torch.zeros(gen.sample_rate // 4)
parts = [part for segment in conversation.segments for part in (segment.audio, pause)]
write_audio("dialogue.wav", torch.cat(parts), gen.sample_rate)
