"""What fine-tuning draws from: new conversations and the model's own speech, in the shares that were asked for."""

from pathlib import Path

import numpy as np
import pytest

from duologue.checkpoints import Checkpoint, load_checkpoint
from duologue.cli import tuning
from duologue.cli.tuning import Batching, OwnSpeech
from duologue.config import TextConfig
from duologue.data.shards import CodedTurn
from duologue.engine.load import find_source
from duologue.errors import ConfigError, DuologueWarning, OptionError, TrainingError
from duologue.train.csm import CSMTrainConfig
from duologue.train.loop import LoopConfig


def data(base: Checkpoint) -> tuning._Data:
    return tuning._Data(base, Batching(200, 120), is_telling=True)


@pytest.mark.parametrize("share", [0.2, 0.6])
def test_rehearsal_has_its_share_of_the_rows(tiny: Path, share: float) -> None:
    base = load_checkpoint(str(tiny))
    count = base.model.num_codebooks

    def turn(text: str, code: int, frames: int) -> CodedTurn:
        return CodedTurn("ada", 0, text, np.full((count, frames), code, np.int16))

    new = [[turn("new", 1, 12)] for _ in range(40)]
    own = [[turn("old", 2, 30)] for _ in range(12)]
    draw = data(base).sampler(new, seed=0, rehearsal=OwnSpeech(own, share))
    rows = {1: 0, 2: 0}
    mixed = 0
    for step in range(150):
        batch = draw(step)
        codes = batch.tokens[..., 0] * batch.scored
        has = {code: (codes == code).any(dim=1) for code in rows}
        mixed += int((has[1] & has[2]).sum())
        for code in rows:
            rows[code] += int((codes == code).sum())
    assert rows[2] / sum(rows.values()) == pytest.approx(share, abs=0.08)
    assert not mixed  # nobody is introduced by a recording of somebody else who goes by the same name


def test_what_a_first_model_said_is_led_by_recordings_and_has_its_share(tiny: Path) -> None:
    base = load_checkpoint(str(tiny))
    count = base.model.num_codebooks

    def turns(code: int, frames: int, number: int) -> list[list[CodedTurn]]:
        return [[CodedTurn("ada", 0, "text", np.full((count, frames), code, np.int16))] for _ in range(number)]

    shares = {2: 0.25, 3: 0.35}
    draw = data(base).sampler(
        turns(1, 12, 40),
        seed=0,
        rehearsal=OwnSpeech(turns(2, 30, 12), shares[2]),
        self_training=OwnSpeech(turns(3, 15, 5), shares[3]),
    )
    rows = {1: 0, 2: 0, 3: 0}
    mixed = {(1, 2): 0, (2, 3): 0, (1, 3): 0}
    for step in range(200):
        batch = draw(step)
        codes = batch.tokens[..., 0] * batch.scored
        has = {code: (codes == code).any(dim=1) for code in rows}
        for one, other in mixed:
            mixed[one, other] += int((has[one] & has[other]).sum())
        for code in rows:
            rows[code] += int((codes == code).sum())
    for code, share in shares.items():
        assert rows[code] / sum(rows.values()) == pytest.approx(share, abs=0.06)
    # A recording may lead what the first model said, and the other way round.
    assert mixed[1, 3] > 50 and not mixed[1, 2] + mixed[2, 3]


def test_shares_that_leave_nothing_of_the_data(tiny: Path, tmp_path: Path) -> None:
    base = load_checkpoint(str(tiny))
    turns = [[CodedTurn("ada", 0, "new", np.zeros((base.model.num_codebooks, 12), np.int16))]]
    own = OwnSpeech(turns, 0.5)
    config = CSMTrainConfig(model=base.model.config, loop=LoopConfig(num_steps=1))
    with pytest.raises(OptionError, match=r"0\.5 of what is learned rehearsed and 0\.5 self-training: nothing is left"):
        tuning.tune(base, turns, config, tmp_path / "out", rehearsal=own, self_training=own)
    assert not (tmp_path / "out").exists()


def test_another_language_is_read_and_the_voices_of_before_are_left_out(tmp_path: Path) -> None:
    parlor = load_checkpoint(find_source("parlor"))
    english = parlor.tokenizer.prepare("3 niños")
    base = tuning.in_alphabet(parlor, "espeak:es-419")
    assert base.tokenizer.prepare("3 niños") == "tɾˈAs nˈinjɔs" != english
    turns = [[CodedTurn("eva", 0, "hola", np.zeros((base.model.num_codebooks, 20), np.int16))]]
    tuning.save_tuned(tmp_path / "model", base.model, base, turns, num_voices=1, keeps_voices=False)
    saved = load_checkpoint(str(tmp_path / "model"))
    assert saved.model.config.text == TextConfig("[{speaker}]{text}", alphabet="espeak:es-419", normalize=False)
    assert saved.tokenizer.encode("jamón", 0) == base.tokenizer.encode("jamón", 0)
    assert list((tmp_path / "model" / "voices").glob("*.safetensors")) == [
        tmp_path / "model" / "voices" / "eva.safetensors"
    ]


def test_an_alphabet_that_is_none_or_not_the_models(tiny: Path) -> None:
    with pytest.raises(OptionError, match="this one's is 'text'"):
        tuning.in_alphabet(load_checkpoint(str(tiny)), "espeak:es")
    parlor = load_checkpoint(find_source("parlor"))
    for alphabet, found in (("text", "alphabet 'text': expected"), ("espeak:xx", "no voice 'xx'")):
        with pytest.raises(OptionError, match=found):
            tuning.in_alphabet(parlor, alphabet)
    with pytest.raises(ConfigError, match="alphabet 'spanish'"):
        tuning.in_alphabet(parlor, "spanish")


def test_without_rehearsal_all_is_new(tiny: Path) -> None:
    base = load_checkpoint(str(tiny))
    new = [[CodedTurn("ada", 0, "new", np.full((base.model.num_codebooks, 12), 1, np.int16))]]
    batch = data(base).sampler(new, seed=0)(0)
    assert (batch.tokens[..., 0][batch.scored] <= 1).all()


def test_turns_without_room_are_counted_and_have_no_weight(tiny: Path) -> None:
    base = load_checkpoint(str(tiny))
    count = base.model.num_codebooks
    long, short = (CodedTurn("ada", 0, "new", np.full((count, frames), 1, np.int16)) for frames in (300, 12))
    with pytest.warns(DuologueWarning, match="2 of 5 turns have more than 120 rows and are left out"):
        kept = data(base).fitting([[long], [short, long, short], [short]])
    assert [len(turns) for turns in kept] == [1, 1, 1]
    with pytest.raises(TrainingError, match="own speech no turn fits a sequence of 120 rows"):
        data(base).sampler(kept, seed=0, rehearsal=OwnSpeech([], 0.3))
