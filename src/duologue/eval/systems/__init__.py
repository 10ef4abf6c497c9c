"""The kinds of speech system that can be put under test, each behind the `System` protocol."""

from duologue.eval.systems.command import CommandSystem
from duologue.eval.systems.model import ModelSystem
from duologue.eval.systems.recordings import RecordedSystem
from duologue.eval.systems.server import ServerSystem

__all__ = ["CommandSystem", "ModelSystem", "RecordedSystem", "ServerSystem"]
