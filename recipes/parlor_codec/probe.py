"""What a codebook knows of the words: a linear probe reads phonemes off its codes alone.

The probe sees one codebook's codes of five frames as one-hot vectors and gives, for the middle one, three distributions
over phonemes and a blank: one matrix and nothing else. It learns by CTC (Graves et al., 2006) from turns with text and
is scored by phoneme error rate on turns and voices it has not met. A probe that learns nothing stays near 100 %. Needs
the extra `eval`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import jiwer
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import duologue
from duologue.data.shards import CodedTurn
from duologue.errors import DuologueError, TrainingError
from duologue.text.phonemes import PHONEME_SYMBOLS, PUNCTUATION, EspeakPhonemizer
from recipes.work import Work, encode_split

_FRAMES = 5
_STEPS_PER_FRAME = 3  # speech has up to twenty phonemes a second, and there are 12.5 frames
_SILENT = {" ", "ˈ", "ˌ", *PUNCTUATION}
_BATCH = 32


class Probe(nn.Module):
    """Codes `[B, T]` of one codebook to log-probabilities `[B, 3 T, P + 1]`; the last class is CTC's blank."""

    def __init__(self, codebook_size: int, num_phonemes: int) -> None:
        super().__init__()
        self.padding = codebook_size
        width = _STEPS_PER_FRAME * (num_phonemes + 1)
        self.offsets = nn.ModuleList(nn.Embedding(codebook_size + 1, width) for _ in range(_FRAMES))
        for table in self.offsets:
            nn.init.zeros_(table.weight)  # type: ignore[arg-type]

    def forward(self, codes: Tensor) -> Tensor:
        padded = F.pad(codes, (_FRAMES // 2, _FRAMES // 2), value=self.padding)
        pieces = padded.unfold(-1, _FRAMES, 1)  # [B, T, 5]
        logits = torch.stack([table(pieces[..., index]) for index, table in enumerate(self.offsets)]).sum(dim=0)
        steps: Tensor = logits.unflatten(-1, (_STEPS_PER_FRAME, -1)).flatten(1, 2)
        return steps.log_softmax(dim=-1)


def phonemes_of(text: str, phonemize: EspeakPhonemizer) -> list[int]:
    """Numbers of the sounds of a text, without stress and punctuation."""
    return [PHONEME_SYMBOLS.index(symbol) for symbol in phonemize(text) if symbol not in _SILENT]


def error_rate(probe: Probe, codes: Sequence[Tensor], targets: Sequence[list[int]]) -> float:
    """Edit distance of the most likely phonemes over the length of the true ones, over all turns."""
    blank = len(PHONEME_SYMBOLS)
    heard = []
    with torch.no_grad():
        for row in codes:
            best = probe(row[None])[0].argmax(dim=-1).unique_consecutive()
            heard.append(" ".join(str(int(symbol)) for symbol in best if symbol != blank))
    rate: float = jiwer.wer([" ".join(map(str, target)) for target in targets], heard)
    return rate


def train_probe(
    codes: Sequence[Tensor], targets: Sequence[list[int]], codebook_size: int, *, steps: int, seed: int = 0
) -> Probe:
    """Learns from turns `codes[i] [T]`; batches are drawn at random."""
    torch.manual_seed(seed)
    probe = Probe(codebook_size, len(PHONEME_SYMBOLS))
    optimizer = torch.optim.AdamW(probe.parameters(), 0.1, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    usable = [i for i, row in enumerate(codes) if targets[i] and len(targets[i]) <= _STEPS_PER_FRAME * len(row)]
    if not usable:
        raise TrainingError("no turn has text and enough frames to learn from")
    for _ in range(steps):
        chosen = [usable[int(i)] for i in torch.randint(len(usable), (_BATCH,))]
        rows = nn.utils.rnn.pad_sequence([codes[i] for i in chosen], batch_first=True, padding_value=probe.padding)
        logits = probe(rows).transpose(0, 1)  # [3 T, B, P + 1]
        loss = F.ctc_loss(
            logits,
            torch.tensor([symbol for i in chosen for symbol in targets[i]]),
            torch.tensor([_STEPS_PER_FRAME * len(codes[i]) for i in chosen]),
            torch.tensor([len(targets[i]) for i in chosen]),
            blank=len(PHONEME_SYMBOLS),
            zero_infinity=True,
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return probe


def coded(work: Work, codec: str, split: str) -> list[CodedTurn]:
    """All turns of a split as codes, kept in the work folder."""
    return [turn for conversation in encode_split(work, codec, split, print).conversations for turn in conversation]


def probe_codebooks(
    turns: Mapping[str, Sequence[CodedTurn]], codebook_size: int, codebooks: Sequence[int], *, steps: int
) -> Iterator[tuple[int, float]]:
    """Each codebook's number and its phoneme error rate in percent: learned from `train`, scored on `heldout`."""
    phonemize = EspeakPhonemizer()
    targets = {split: [phonemes_of(turn.text, phonemize) for turn in own] for split, own in turns.items()}
    for index in codebooks:
        codes = {
            split: [torch.from_numpy(turn.codes[index].copy()).long() for turn in own] for split, own in turns.items()
        }
        probe = train_probe(codes["train"], targets["train"], codebook_size, steps=steps)
        yield index, round(100 * error_rate(probe, codes["heldout"], targets["heldout"]), 1)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m recipes.parlor_codec.probe", description=__doc__)
    parser.add_argument("--codec", default="parlor", help="a checkpoint with a codec (default: the bundled one)")
    parser.add_argument("--corpus", type=Path, nargs="+", default=[Path("../shared/corpus")])
    parser.add_argument("--work", type=Path, default=Path("runs/probe"), help="where the coded turns are kept")
    parser.add_argument("--codebooks", type=int, nargs="+", default=[0, 1, 2], help="which to probe (default: 0 1 2)")
    parser.add_argument("--steps", type=int, default=3000, help="steps of each probe (default: 3000)")
    parser.add_argument("--threads", type=int, default=2, help="processor threads (default: 2)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    try:
        size = duologue.load_codec(arguments.codec).config.codebook_size
        work = Work(tuple(arguments.corpus), arguments.work, arguments.threads)
        parts = {split: coded(work, arguments.codec, split) for split in ("train", "heldout")}
        for index, rate in probe_codebooks(parts, size, arguments.codebooks, steps=arguments.steps):
            print(json.dumps({"codebook": index, "phoneme_error_rate": rate}), flush=True)
    except DuologueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
