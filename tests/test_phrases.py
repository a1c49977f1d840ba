"""Things with pixels of their own pass; parts of the body and actions do not."""

import pytest

from dataengine.phrases import unfit

THINGS = """black shirt|running shoes|face mask|hand bag|bag with a face on it|long hair pulled back|grey beard|earrings
|engagement ring|walking stick|glasses|head scarf|hat|wedding dress|painting|a red dress|stockings|backpack|wristwatch
|armband|黑色衬衫|手表|红色帽子|手提包|眼镜|头巾""".replace("\n", "")
PARTS = "left hand|hands|blue eyes|smiling face|feet|bald head|her arms|open mouth|bare shoulders|左手|眼睛|微笑的脸"
DOINGS = """walking|holding a cup|talking to her|wearing glasses|smile|warm smile|looking at the camera|sitting on
|serious expression|gaze|正在说话|微笑|坐着""".replace("\n", "")


@pytest.mark.parametrize("phrase", THINGS.split("|"))
def test_things(phrase: str) -> None:
    assert unfit(phrase) is None


@pytest.mark.parametrize(("phrases", "rule"), [(PARTS, "phrase_body_part"), (DOINGS, "phrase_action")])
def test_no_things(phrases: str, rule: str) -> None:
    for phrase in phrases.split("|"):
        reason = unfit(phrase)
        assert reason is not None and reason.rule == rule, phrase


def test_nothing_is_no_body_part() -> None:
    assert unfit("") is None
    assert unfit("…") is None
