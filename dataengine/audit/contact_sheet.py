"""A picture of a dataset at a glance: each sample's frame, caption and references, tied together by colour."""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence

from PIL import Image, ImageDraw

from dataengine.audit import lettering, overlay, palette
from dataengine.audit.grouping import Group, subjects, surroundings
from dataengine.audit.lettering import Style
from dataengine.audit.palette import Colour, colour_of
from dataengine.audit.sampling import evenly
from dataengine.audit.scene import Scene, UnreadableSample
from dataengine.audit.wording import pieces, shortened, visible
from dataengine.records import Pair, Reference
from dataengine.shards.index import Index
from dataengine.store import Store

log = logging.getLogger(__name__)

_PAGE, _CARD, _LINE, _INK, _QUIET = "#f3f4f6", "#ffffff", "#dfe3e8", "#1b1d21", "#667080"
_WIDTH, _MARGIN, _PAD, _GAP = 1600, 40, 28, 16
_FRAME = 640
_THUMBS = (148, 132, 116, 100)
_THUMB_ASPECT = 1.8
_CAPTION_LINES = 6
_TITLE, _CAPTION, _HEAD, _TEXT, _SMALL, _MONO = (
    Style(34, "bold"), Style(23), Style(18, "bold"), Style(17), Style(15), Style(15, "mono"),
)  # fmt: skip


def contact_sheet(out: Store, name: str = "contact_sheet.png", limit: int = 8) -> None:
    """Draw at most `limit` samples of a dataset, evenly spread over it, into a PNG beside its shards.

    A sample that cannot be decoded shows as such. Raises what `Index.read` raises when `out` holds no dataset.
    """
    index = Index.read(out)
    scenes: list[Scene | UnreadableSample] = []
    for position in evenly(len(index), limit):
        try:
            scenes.append(Scene.stored(out, index[position]))
        except UnreadableSample as error:
            scenes.append(error)
    scenes.sort(key=_interest)
    stream = io.BytesIO()
    count = f"{len(scenes)} of {len(index)}" if len(scenes) < len(index) else f"{len(index)}"
    draw_sheet(scenes, f"{count} sample{'' if len(index) == 1 else 's'}").save(stream, "PNG", optimize=True)
    out.write(name, stream.getvalue())


def _interest(scene: Scene | UnreadableSample) -> tuple[int, int, str]:
    """Samples with most to see come first: relations between several people are what the dataset is for."""
    if isinstance(scene, UnreadableSample):
        return 1, 0, str(scene)
    return -len(scene.pair.subjects), -len(scene.pair.references), scene.pair.key


def draw_sheet(scenes: Sequence[Scene | UnreadableSample], subtitle: str) -> Image.Image:
    """The cards of all scenes below each other, RGB, 1600 pixels wide."""
    width = _WIDTH - 2 * _MARGIN
    parts = [_header(subtitle)]
    for scene in scenes:
        parts.append(_failure(str(scene), width, 120) if isinstance(scene, UnreadableSample) else _card(scene))
    if not scenes:
        words = "There is no sample: clips.parquet and quarantine.parquet say what became of each clip."
        parts.append(_failure(words, width, 120))
    height = sum(part.height for part in parts) + _GAP * (len(parts) - 1) + 2 * _MARGIN
    sheet = Image.new("RGB", (_WIDTH, height), _PAGE)
    y = _MARGIN
    for part in parts:
        sheet.paste(part, (_MARGIN, y))
        y += part.height + _GAP
    return sheet


def _header(subtitle: str) -> Image.Image:
    header = Image.new("RGB", (_WIDTH - 2 * _MARGIN, 72), _PAGE)
    canvas = ImageDraw.Draw(header)
    x = lettering.draw(canvas, 0, 36, "dataengine", _TITLE, _INK)
    lettering.draw(canvas, x + 16, 36, subtitle, Style(24), _QUIET)
    legend = [(f"subject {i}", colour) for i, colour in enumerate(palette.SUBJECTS[:3])]
    legend += [("object", palette.OBJECT), ("background", palette.BACKGROUND)]
    x = float(header.width)
    for words, colour in reversed(legend):
        x -= lettering.width(words, _TEXT)
        lettering.draw(canvas, x, 34, words, _TEXT, _QUIET)
        x -= 26
        _rounded(header, (x, 19, x + 18, 37), 5, fill=colour.fill)
        x -= 26
    return header


def _card(scene: Scene) -> Image.Image:
    """Left what is seen, right what is said and who it belongs to; the scene's own references fill the shorter side."""
    room = _WIDTH - 2 * _MARGIN - 2 * _PAD - _FRAME - 2 * _GAP
    left, right = [_picture_column(scene)], [_caption(scene.pair, room)]
    right += _rows([_panel(scene, group, room) for group in subjects(scene.pair)], room)
    column, width = (left, _FRAME) if _height(left) < _height(right) else (right, room)
    column += _rows([_panel(scene, group, width) for group in surroundings(scene.pair)], width)
    height = max(_height(left), _height(right)) + 2 * _PAD
    card = Image.new("RGB", (_WIDTH - 2 * _MARGIN, height), _PAGE)
    _rounded(card, (0, 0, card.width, card.height), 18, fill=_CARD, outline=_LINE)
    for x, column in ((_PAD, left), (_PAD + _FRAME + 2 * _GAP, right)):
        y = _PAD
        for part in column:
            card.paste(part, (x, y))
            y += part.height + _GAP
    return card


def _height(parts: Sequence[Image.Image]) -> int:
    return sum(part.height for part in parts) + _GAP * (len(parts) - 1)


def _picture_column(scene: Scene) -> Image.Image:
    """The still most references come from, smaller the others that any comes from, and what the sample is."""
    main = overlay.main_still(scene)
    others = [still for still in range(3) if still != main and overlay.at_still(scene, still)]
    pictures: list[tuple[int, int, Image.Image]] = []
    try:
        picture = overlay.annotated(scene, main, _FRAME)
        if picture.height > _FRAME:  # a portrait video: as high as it may be, centred
            picture = overlay.annotated(scene, main, round(_FRAME * _FRAME / picture.height))
        pictures.append(((_FRAME - picture.width) // 2, 0, picture))
        y, width = picture.height + _GAP // 2, (_FRAME - _GAP // 2) // 2
        for i, still in enumerate(others):
            pictures.append((i * (width + _GAP // 2), y, overlay.annotated(scene, still, width, label_size=12)))
    except UnreadableSample as error:
        log.warning("%s", error)
        pictures = [(0, 0, _failure(str(error), _FRAME, 240))]
    bottom = max(y + picture.height for _, y, picture in pictures)
    column = Image.new("RGB", (_FRAME, bottom + 74), _CARD)
    for x, y, picture in pictures:
        column.paste(_round_off(picture), (x, y))
    _about(ImageDraw.Draw(column), scene.pair, bottom)
    return column


def _about(canvas: ImageDraw.ImageDraw, pair: Pair, y: int) -> None:
    size = f"{pair.width}×{pair.height}"
    facts = "  ·  ".join((pair.split, f"{pair.frames / pair.fps:.1f} s", size, pair.pairing.replace("_", "-")))
    name = shortened(pair.source_names[0] if pair.source_names else "", 60)
    lettering.draw(canvas, 0, y + 34, facts, Style(17, "bold"), _QUIET)
    x = lettering.width(facts, Style(17, "bold")) + 24
    lettering.draw(canvas, x, y + 34, lettering.fit(name, _TEXT, _FRAME - x), _TEXT, _QUIET)
    lettering.draw(canvas, 0, y + 62, lettering.fit(pair.key, _MONO, _FRAME), _MONO, _QUIET)


def _rows(panels: Sequence[Image.Image], room: int) -> list[Image.Image]:
    """Panels side by side where they fit in `room` pixels, else below each other."""
    rows: list[list[Image.Image]] = []
    for panel in panels:
        if rows and sum(p.width for p in rows[-1]) + len(rows[-1]) * _GAP + panel.width <= room:
            rows[-1].append(panel)
        else:
            rows.append([panel])
    return [_side_by_side(row) for row in rows]


def _caption(pair: Pair, width: int) -> Image.Image:
    """The caption with every phrase on its entity's tint and underlined in its colour."""
    pitch = round(_CAPTION.size * 1.62)
    stretches = [(piece.text, piece.entity) for piece in pieces(pair)]
    words = lettering.wrap(stretches, _CAPTION, width, _CAPTION_LINES)
    picture = Image.new("RGB", (width, pitch * (1 + max((w.line for w in words), default=0)) + 6), _CARD)
    canvas = ImageDraw.Draw(picture)
    for i, word in enumerate(words):
        if word.tag is None:
            continue
        following = words[i + 1] if i + 1 < len(words) else None
        goes_on = following is not None and following.tag == word.tag and following.line == word.line
        end = word.x + (word.width if goes_on else lettering.width(word.text.rstrip(), _CAPTION))
        colour, top = colour_of(word.tag), word.line * pitch
        canvas.rectangle([word.x, top + 2, end, top + pitch - 10], fill=_tinted(colour, 0.14))
        canvas.rectangle([word.x, top + pitch - 10, end, top + pitch - 7], fill=colour.fill)
    for word in words:
        lettering.draw(canvas, word.x, word.line * pitch + _CAPTION.size + 1, word.text.rstrip(), _CAPTION, _INK)
    return picture


def _panel(scene: Scene, group: Group, room: int) -> Image.Image:
    """A group's references side by side under its name: as large as one row allows, else in several rows."""
    pad, step, head, foot = 14, 10, 38, 28
    inner = room - 2 * pad
    for size in _THUMBS:
        thumbs = [(words, _thumb(scene, reference, size)) for words, reference in group.references]
        if sum(thumb.width + step for _, thumb in thumbs) - step <= inner:
            break
    rows: list[list[tuple[str, Image.Image]]] = [[]]
    for words, thumb in thumbs:
        if rows[-1] and sum(t.width + step for _, t in rows[-1]) + thumb.width > inner:
            rows.append([])
        rows[-1].append((words, thumb))
    widest = max(sum(t.width for _, t in row) + step * (len(row) - 1) for row in rows)
    inner = max(widest, round(min(lettering.width(group.title, _HEAD) + 28, inner)))
    panel = Image.new("RGB", (inner + 2 * pad, head + len(rows) * (size + foot) + 8), _CARD)
    tint = _tinted(group.colour, 0.08)
    _rounded(panel, (0, 0, panel.width, panel.height), 12, fill=tint)
    _rounded(panel, (pad, 14, pad + 16, 30), 5, fill=group.colour.fill)
    canvas = ImageDraw.Draw(panel)
    lettering.draw(canvas, pad + 26, 28, lettering.fit(group.title, _HEAD, inner - 26), _HEAD, _INK)
    for i, row in enumerate(rows):
        x, y = pad, head + i * (size + foot)
        for words, thumb in row:
            panel.paste(_round_off(thumb, 8, tint), (x, y))
            lettering.draw(canvas, x, y + size + 20, lettering.fit(words, _SMALL, thumb.width), _SMALL, _QUIET)
            x += thumb.width + step
    return panel


def _thumb(scene: Scene, reference: Reference, size: int) -> Image.Image:
    """A reference on white, all of it visible, `size` pixels high."""
    try:
        image = scene.image(reference)
    except UnreadableSample as error:
        log.warning("%s", error)
        return _failure("unreadable", size, size)
    inset = 0 if reference.kind in ("face", "background") else 6  # a cut-out needs air, a rectangle fills its frame
    scale = min((size - 2 * inset) / image.height, _THUMB_ASPECT * size / image.width)
    image = image.resize(
        (max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.LANCZOS
    )
    thumb = Image.new("RGB", (max(image.width + 2 * inset, round(0.75 * size)), size), "#ffffff")
    thumb.paste(image, ((thumb.width - image.width) // 2, (size - image.height) // 2))
    return thumb


def _failure(message: str, width: int, height: int) -> Image.Image:
    picture = Image.new("RGB", (width, height), "#fdecea")
    words = lettering.wrap([(visible(message), None)], _TEXT, width - 40, max(1, (height - 40) // 28))
    for word in words:
        lettering.draw(ImageDraw.Draw(picture), 20 + word.x, 42 + 28 * word.line, word.text.rstrip(), _TEXT, "#8c1d18")
    return picture


def _side_by_side(panels: Sequence[Image.Image]) -> Image.Image:
    width = sum(panel.width for panel in panels) + _GAP * (len(panels) - 1)
    row = Image.new("RGB", (width, max(panel.height for panel in panels)), _CARD)
    x = 0
    for panel in panels:
        row.paste(panel, (x, 0))
        x += panel.width + _GAP
    return row


def _rounded(
    picture: Image.Image, box: tuple[float, float, float, float], radius: int, fill: str, outline: str | None = None
) -> None:
    """A smooth rounded rectangle, drawn larger and reduced."""
    times = 4
    size = (round(box[2] - box[0]), round(box[3] - box[1]))
    shape = Image.new("L", (size[0] * times, size[1] * times))
    ImageDraw.Draw(shape).rounded_rectangle([0, 0, shape.width - 1, shape.height - 1], radius * times, fill=255)
    shape = shape.resize(size, Image.Resampling.BOX)
    at = (round(box[0]), round(box[1]))
    if outline is not None:
        picture.paste(outline, (*at, at[0] + size[0], at[1] + size[1]), shape)
        inner = (box[0] + 1, box[1] + 1, box[2] - 1, box[3] - 1)
        _rounded(picture, inner, radius - 1, fill)
    else:
        picture.paste(fill, (*at, at[0] + size[0], at[1] + size[1]), shape)


def _round_off(picture: Image.Image, radius: int = 10, ground: str = _CARD) -> Image.Image:
    """`picture` with its corners rounded off towards the colour it stands on."""
    rounded = Image.new("RGB", picture.size, ground)
    times = 4
    shape = Image.new("L", (picture.width * times, picture.height * times))
    ImageDraw.Draw(shape).rounded_rectangle([0, 0, shape.width - 1, shape.height - 1], radius * times, fill=255)
    rounded.paste(picture, mask=shape.resize(picture.size, Image.Resampling.BOX))
    return rounded


def _tinted(colour: Colour, share: float) -> str:
    """The colour mixed into white."""
    r, g, b = (round(255 + (value - 255) * share) for value in colour.rgb)
    return f"#{r:02x}{g:02x}{b:02x}"
