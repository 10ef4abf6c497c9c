"""Checkpoints of every published layout: loaded, written back, converted; from folders and from the hub."""

from duologue.checkpoints.layouts import LAYOUTS
from duologue.checkpoints.loading import Checkpoint, inspect, load_checkpoint, load_codec
from duologue.checkpoints.saving import convert, save_checkpoint

__all__ = ["LAYOUTS", "Checkpoint", "convert", "inspect", "load_checkpoint", "load_codec", "save_checkpoint"]
