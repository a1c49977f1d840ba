"""What can be an attribute or object at all: a thing with pixels of its own, not a part of the body and not an action.

Hair and beards count as attributes: they are worn, cut and seen, and a person can be told by them.
"""

from __future__ import annotations

import re

from dataengine.records import Reason


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


BODY_PARTS = _words(
    """ankle arm back body cheek chest chin ear elbow eye eyebrow face finger fist foot forehead hand head hip jaw knee
    lap leg lip mouth neck nose palm shoulder skin stomach teeth thigh thumb toe tongue tooth torso waist wrist"""
)
LOOKS = _words(
    """action attention conversation emotion expression gaze gesture glance laugh laughter look motion movement pose
    posture smile speech stance step walk"""
)
"""What people do or show, said as a noun."""

_THINGS_IN_ING = _words(
    """awning bedding building ceiling clothing covering crossing drawing earring king legging lightning lining painting
    parking piercing railing ring sling spring stocking string swing trimming wedding wing"""
)
_HAVING = _words("carrying having holding wearing")
_JOINS = _words(
    """a about across against along an and around as at away back behind by down for forward from her his in into it its
    near of off on onto out over something the their them through to together toward towards up with"""
)
"""They follow an action ("holding a cup", "talking to"), or end the first part of a name ("hat with a brim")."""

_ZH_BODY_PARTS = tuple(_words("手 手臂 胳膊 脸 面部 眼睛 鼻子 嘴 嘴巴 头 头部 腿 脚 肩膀 手指 皮肤 身体 脖子 耳朵"))
_ZH_LOOKS = tuple(_words("微笑 笑容 表情 动作 姿势 目光 手势"))
_ZH_DOING = re.compile(r"^(正在|在).*|.*着$")
_CHINESE = re.compile(r"[一-鿿]")


def unfit(phrase: str) -> Reason | None:
    """Why a phrase cannot be an attribute or object, None when it can. English and Chinese are known.

    The first part of the phrase decides by its last word ("left hand" is a hand, "bag with a face on it" is a bag), and
    by its first word when that is a participle with something behind it ("holding a cup", but not "running shoes").
    """
    words = re.findall(r"[a-z]+", phrase.casefold())
    body_part, action = _chinese(phrase.strip()) if _CHINESE.search(phrase) else _english(words)
    if body_part:
        return Reason("phrase_body_part", f"{phrase!r} is a part of the body")
    if action:
        return Reason("phrase_action", f"{phrase!r} is something done or shown, not a thing")
    return None


def _english(words: list[str]) -> tuple[bool, bool]:
    """Whether it names a part of the body, and whether an action or a look."""
    if not words:
        return False, False
    cut = next((i for i, word in enumerate(words) if i and word in _JOINS), len(words))
    head = _singular(words[cut - 1])
    doing = words[0].endswith("ing") and len(words[0]) > 4 and _singular(words[0]) not in _THINGS_IN_ING
    return head in BODY_PARTS, head in LOOKS or words[0] in _HAVING or (doing and cut == 1)


def _chinese(text: str) -> tuple[bool, bool]:
    return text.endswith(_ZH_BODY_PARTS), text.endswith(_ZH_LOOKS) or bool(_ZH_DOING.match(text))


def _singular(word: str) -> str:
    if word == "feet":
        return "foot"
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word
