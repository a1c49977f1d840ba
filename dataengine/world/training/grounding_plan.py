"""What a training of Grounding DINO is made of."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mix:
    """How often is asked for what.

    Attributes:
        people: share of phrases for whole people among those asked of a frame; nearly all others are for objects.
        objects: share of phrases for objects that are true of one, where the frame shows any.
        worn: the same of what people wear.
        renamed: share of hard false phrases that have the right colour of the wrong thing; the others have the wrong
            colour or pattern of the right one.
        furnished: share of frames that are drawn among those with objects.
    """

    people: float = 0.25
    objects: float = 0.5
    worn: float = 0.62
    renamed: float = 0.45
    furnished: float = 0.0


@dataclass(frozen=True)
class Plan:
    """Attributes:

    steps: of the detector, where neither steps nor minutes are given.
    backbone_steps: before, of the backbone alone; at most as many as `steps`.
    views, asks: views in a step and phrases asked of each; they share the backbone's pass.
    shots: views in a step of the backbone alone.
    crops: share of steps whose views are people's crops, and not whole frames.
    eyes: share of the training in which the backbone goes on learning inside of the detector. Then it sees enough, and
        a step costs less.
    absent: weight of phrases that are not there in `presence_loss`. A score of 0.3 is a phrase that is there as likely
        as not where they count 2.3 times.
    first, every: videos that are drawn before the first step, and steps between two more of them; of each worker.
    shortest, longest: sides of what the network sees, in pixels.
    width, stages: of the network, and of its backbone's stages.
    """

    steps: int
    backbone_steps: int
    views: int
    asks: int
    shots: int
    crops: float
    eyes: float
    absent: float
    first: int
    every: int
    shortest: int
    longest: int
    width: int
    stages: tuple[int, int, int]
    mix: Mix

    @classmethod
    def of(cls, device: str) -> Plan:
        return CPU if device == "cpu" else GPU


CPU = Plan(
    steps=6000, backbone_steps=400, views=5, asks=8, shots=12, crops=0.3, eyes=2 / 3, absent=1, first=150, every=3,
    shortest=112, longest=160, width=64, stages=(32, 64, 96), mix=Mix(),
)  # fmt: skip
GPU = Plan(
    steps=4500, backbone_steps=600, views=16, asks=12, shots=32, crops=0.45, eyes=1, absent=2, first=60, every=1,
    shortest=128, longest=192, width=96, stages=(32, 64, 128),
    mix=Mix(people=0.15, objects=0.5, worn=0.58, renamed=0.6, furnished=0.75),
)  # fmt: skip
"""A GPU is as slow with a small step as with a large one. Frames of the world are seen at 192 x 115, crops at 128 x 192
at most."""
