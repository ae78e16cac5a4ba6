"""From relations to boxes: clusters of related things, packed onto the canvas.

Things that lie to one another form a cluster, laid out around its first thing in a plane of its own; clusters
go to the part of the picture that was asked, or side by side, and the whole is scaled until it fits. Boxes
overlap only where a thing is in, on, behind or in front of another.
"""

from dataclasses import dataclass, field

from miaobi.text.scene import Layer, Scene, Thing

_SIDES = {"small": 0.6, "medium": 1.0, "large": 1.5}
_MEDIUM = 0.4  # the share of the picture's side that "medium" stands for beside a number
_GAP = 0.06  # between boxes, in sides of a medium thing
_MARGIN = 0.03
_COLUMNS = (1, 1, 2, 3, 2, 3, 3, 4, 4, 3, 4, 4, 4)  # for a count
_OVERLAPS = ("in", "on", "behind", "front")
_ONE_ALONE, _BEFORE_BACKGROUND = 0.94, 0.62  # most side of a picture

Box = tuple[float, float, float, float]


@dataclass
class _Group:
    """All pictures of one thing: `side` of each, `columns`, and `gap` in the middle for what lies between."""

    thing: Thing
    side: float
    columns: int
    x: float = 0.0
    y: float = 0.0
    gap: float = 0.0
    inside: set[int] = field(default_factory=set)
    """Groups that this one may overlap."""

    @property
    def rows(self) -> int:
        return -(-self.thing.count // self.columns)

    @property
    def width(self) -> float:
        return self.columns * self.side + (self.columns - 1) * _GAP * self.side + self.gap

    @property
    def height(self) -> float:
        return self.rows * self.side + (self.rows - 1) * _GAP * self.side

    @property
    def box(self) -> Box:
        return (
            self.x - self.width / 2,
            self.y - self.height / 2,
            self.x + self.width / 2,
            self.y + self.height / 2,
        )

    def boxes(self) -> list[Box]:
        """One box for each picture; a last row that is not full is centred."""
        found, left = [], self.thing.count
        pitch = self.side * (1 + _GAP)
        for row in range(self.rows):
            here = min(self.columns, left)
            left -= here
            y = self.y - self.height / 2 + row * pitch
            for column in range(here):
                x = self.x - (here * pitch - _GAP * self.side) / 2 + column * pitch
                if self.gap:
                    x += self.gap / 2 * (1 if column >= here / 2 else -1)
                found.append((x, y, x + self.side, y + self.side))
        return found


def layout(scene: Scene) -> list[Layer]:
    """The layers of a scene, in the order to paste them. Boxes are squares inside the canvas."""
    groups = [
        _Group(thing, _SIDES[thing.size] if isinstance(thing.size, str) else thing.size / _MEDIUM, columns)
        for thing in scene.things
        for columns in (_COLUMNS[thing.count],)
    ]
    clusters = _clusters(scene, groups)
    free = [one for one in clusters if scene.things[one[0]].place is None]
    scale, at_x, at_y = _pack(scene, groups, free)
    for group in groups:
        group.side *= scale
        group.gap *= scale
        group.x, group.y = group.x * scale + at_x, group.y * scale + at_y
    for cluster in clusters:
        place = scene.things[cluster[0]].place
        if place is not None:
            _move_to(groups, cluster, place)
    layers = []
    for number, group in enumerate(groups):
        for box in group.boxes():
            side = min(box[2] - box[0], 1.0)
            x, y = min(max(box[0], 0.0), 1 - side), min(max(box[1], 0.0), 1 - side)
            layers.append(Layer(number, (round(x, 4), round(y, 4), round(x + side, 4), round(y + side, 4))))
    return layers


def _targets(scene: Scene, number: int) -> tuple[int, ...]:
    """The things that decide where thing `number` goes; none where it has a place of its own."""
    thing = scene.things[number]
    return thing.relation.to if thing.relation and thing.place is None else ()


def _clusters(scene: Scene, groups: list[_Group]) -> list[list[int]]:
    """Numbers of each cluster, its root first, with all groups put relative to the root at (0, 0)."""
    partner = _partners(scene)
    owner: dict[int, list[int]] = {}
    clusters = []
    waiting = list(range(len(groups)))
    while waiting:
        number = next(
            one
            for one in waiting
            if all(other in owner for other in _targets(scene, one))
            and (one not in partner or partner[one][0] in owner)
        )
        waiting.remove(number)
        targets = _targets(scene, number)
        if not targets and number not in partner:
            owner[number] = [number]
            clusters.append(owner[number])
            continue
        cluster = owner[partner[number][0] if number in partner else targets[0]]
        if number in partner:  # the far side of what comes between: room for it is left
            near, middle = partner[number]
            first = groups[near]
            space = groups[middle].width + 2 * _GAP
            groups[number].x = first.box[2] + space + groups[number].width / 2
            groups[number].y = first.box[3] - groups[number].height / 2
            _push_free(groups, cluster, number, (1.0, 0.0))
        else:
            _put(scene, groups, cluster, number, partner)
        cluster.append(number)
        owner[number] = cluster
    return clusters


def _partners(scene: Scene) -> dict[int, tuple[int, int]]:
    """{far thing: (near thing, what lies between them)}, where the far one is free to be put beside it."""
    found: dict[int, tuple[int, int]] = {}

    def root(number: int) -> int:
        while True:
            above = _targets(scene, number) or (found[number][:1] if number in found else ())
            if not above:
                return number
            number = above[0]

    for middle in range(len(scene.things)):
        relation, to = scene.things[middle].relation, _targets(scene, middle)
        if relation is None or relation.word != "between" or len(to) < 2:
            continue
        for near, far in (to, to[::-1]):
            thing = scene.things[far]
            if far not in found and thing.relation is None and thing.place is None and root(near) != far:
                found[far] = (near, middle)
                break
    return found


def _put(
    scene: Scene, groups: list[_Group], cluster: list[int], number: int, partner: dict[int, tuple[int, int]]
) -> None:
    """Put group `number` by its relation to groups that have their place."""
    thing, group = scene.things[number], groups[number]
    assert thing.relation is not None
    word, to = thing.relation.word, thing.relation.to
    target = groups[to[0]]
    x0, y0, x1, y1 = target.box
    group.x, group.y = target.x, target.y
    away = (1.0, 0.0)
    if word in _OVERLAPS:
        group.inside = {to[0], *target.inside}
    if word in ("in", "on"):
        _fit_onto(scene, groups, cluster, number, word)
        return
    if word == "behind":
        group.y, group.x = y0 + 0.3 * group.height - group.height / 2 + 0.1, target.x + 0.25 * target.width
        away = (0.0, -1.0)
    elif word == "front":
        group.y, group.x = y1 - 0.3 * group.height + group.height / 2 - 0.1, target.x - 0.2 * target.width
        away = (0.0, 1.0)
    elif word == "above":
        group.y, away = y0 - _GAP - group.height / 2, (0.0, -1.0)
    elif word == "below":
        group.y, away = y1 + _GAP + group.height / 2, (0.0, 1.0)
    elif word == "between" and len(to) == 2:
        other = groups[to[1]]
        group.x = (min(target.box[2], other.box[2]) + max(target.box[0], other.box[0])) / 2
        group.y, away = (target.y + other.y) / 2, (0.0, -1.0)
    elif word == "between" and target.thing.count > 1 and not target.gap:
        target.columns = -(-target.thing.count // 2) if target.thing.count <= 4 else target.columns
        target.columns = max(2, target.columns)
        target.gap = group.width + 2 * _GAP
        away = (0.0, -1.0)
        group.inside = {to[0]}
    else:
        left = word == "left" or (word == "beside" and _taken(groups, cluster, target))
        away = (-1.0, 0.0) if left else (1.0, 0.0)
        group.x = x0 - _GAP - group.width / 2 if left else x1 + _GAP + group.width / 2
        if word == "beside":
            group.y = y1 - group.height / 2
    _push_free(groups, cluster, number, away)


def _fit_onto(scene: Scene, groups: list[_Group], cluster: list[int], number: int, word: str) -> None:
    """Put a group in the middle of its target or onto its upper edge, in a row with the others there."""
    relation = scene.things[number].relation
    assert relation is not None
    to = relation.to[0]
    target = groups[to]
    row = [
        groups[one]
        for one, thing in enumerate(scene.things)
        if thing.relation == relation and thing.place is None
    ]
    gaps = _GAP * (len(row) - 1)
    room, height = (0.66, 0.6) if word == "in" else (1.0, 0.85)
    width = sum(one.thing.count and _natural(one)[0] for one in row)
    highest = max(_natural(one)[1] for one in row)
    scale = min(0.8, (room * target.width - gaps) / width, height * target.height / highest)
    group = groups[number]
    begin = target.x - (width * scale + gaps) / 2
    for one in row:
        if one is group:
            break
        begin += _natural(one)[0] * scale + _GAP
    group.side = _SIDES.get(str(group.thing.size), 1.0) * scale
    group.x = begin + group.width / 2
    group.y = target.y if word == "in" else target.box[1] + 0.3 * target.side - group.height / 2
    group.inside |= {one for one in cluster if scene.things[one].relation == relation}
    if word == "on":
        _push_free(groups, cluster, number, (0.0, -1.0))


def _natural(group: _Group) -> tuple[float, float]:
    """Width and height of a group before it was scaled."""
    side = _SIDES.get(str(group.thing.size), 1.0)
    return (
        group.columns * side * (1 + _GAP) - side * _GAP,
        group.rows * side * (1 + _GAP) - side * _GAP,
    )


def _taken(groups: list[_Group], cluster: list[int], target: _Group) -> bool:
    """True where the room to the right of the target is taken."""
    x = target.box[2] + 2 * _GAP
    return any(groups[one].box[0] < x < groups[one].box[2] for one in cluster if groups[one] is not target)


def _push_free(groups: list[_Group], cluster: list[int], number: int, away: tuple[float, float]) -> None:
    """Move a group on in a direction until it lies clear of those it may not overlap."""
    group = groups[number]
    for _ in range(len(cluster) + 1):
        for one in cluster:
            x0, y0, x1, y1 = groups[one].box
            a0, b0, a1, b1 = group.box
            if one in group.inside or min(x1, a1) - max(x0, a0) < 1e-6 or min(y1, b1) - max(y0, b0) < 1e-6:
                continue
            if away[0]:
                group.x = x1 + _GAP + group.width / 2 if away[0] > 0 else x0 - _GAP - group.width / 2
            else:
                group.y = y1 + _GAP + group.height / 2 if away[1] > 0 else y0 - _GAP - group.height / 2


def _bounds(groups: list[_Group], cluster: list[int]) -> Box:
    boxes = [groups[one].box for one in cluster]
    return (
        min(box[0] for box in boxes),
        min(box[1] for box in boxes),
        max(box[2] for box in boxes),
        max(box[3] for box in boxes),
    )


def _shift(groups: list[_Group], cluster: list[int], x: float, y: float) -> None:
    for one in cluster:
        groups[one].x += x
        groups[one].y += y


def _pack(scene: Scene, groups: list[_Group], clusters: list[list[int]]) -> tuple[float, float, float]:
    """Spread clusters over left, middle and right, top, middle and bottom; the scale and shift that then fit
    the canvas."""
    cells: dict[tuple[int, int], list[list[int]]] = {}
    for cluster in clusters:
        word = next(
            (
                relation.word
                for one in cluster
                if (relation := scene.things[one].relation) is not None and not relation.to
            ),
            "",
        )
        cell = ({"left": 0, "right": 2}.get(word, 1), {"above": 0, "below": 2}.get(word, 1))
        cells.setdefault(cell, []).append(cluster)
    blocks = {cell: _shelves(groups, members) for cell, members in cells.items()}
    space = 2 * _GAP
    widths = _tracks({cell: box[2] for cell, box in blocks.items()}, 0)
    heights = _tracks({cell: box[3] for cell, box in blocks.items()}, 1)
    starts = [[sum(sizes[:i]) + space * i for i in range(3)] for sizes in (widths, heights)]
    for (column, row), block in blocks.items():
        x = starts[0][column] + (widths[column] - block[2]) / 2
        y = starts[1][row] + (heights[row] - block[3]) / 2
        for cluster in cells[column, row]:
            _shift(groups, cluster, x, y)
    total = [sum(sizes) + space * sum(size > 0 for size in sizes[:-1]) for sizes in (widths, heights)]
    used = [starts[axis][2] + sizes[2] for axis, sizes in enumerate((widths, heights))]
    longest = max([*total, *used, 1e-6])
    room = 1 - 2 * _MARGIN
    most = _BEFORE_BACKGROUND if scene.background else _ONE_ALONE
    members = [groups[one] for cluster in clusters for one in cluster]
    limits = [most / max((group.side for group in members), default=1.0), room / longest]
    limits += [_MEDIUM for group in members if not isinstance(group.thing.size, str)]
    scale = min(limits)
    if not clusters:
        return _MEDIUM, 0.0, 0.0
    spare_y = 1 - 2 * _MARGIN - used[1] * scale
    low = 0.7 if scene.background else 0.5  # before a background things stand rather low
    return scale, _MARGIN + (room - used[0] * scale) / 2, _MARGIN + spare_y * low


def _tracks(sizes: dict[tuple[int, int], float], axis: int) -> list[float]:
    """The three widths or heights of the grid; a thing that lies on one side leaves the other side free."""
    tracks = [max((size for cell, size in sizes.items() if cell[axis] == i), default=0.0) for i in range(3)]
    if not tracks[1] and bool(tracks[0]) != bool(tracks[2]):
        tracks[0] = tracks[2] = max(tracks)
    return tracks


def _shelves(groups: list[_Group], clusters: list[list[int]]) -> Box:
    """Clusters in rows that stand on their floor, in as many rows as make the whole most square."""
    sizes = [_bounds(groups, one) for one in clusters]
    best: tuple[float, list[list[int]]] | None = None
    for rows in range(1, len(clusters) + 1):
        per = -(-len(clusters) // rows)
        split = [list(range(i, min(i + per, len(clusters)))) for i in range(0, len(clusters), per)]
        width = max(sum(sizes[i][2] - sizes[i][0] + _GAP for i in row) for row in split)
        height = sum(max(sizes[i][3] - sizes[i][1] for i in row) + _GAP for row in split)
        if best is None or max(width, height) < best[0] - 1e-9:
            best = (max(width, height), split)
    assert best is not None
    total = max(sum(sizes[i][2] - sizes[i][0] + _GAP for i in row) - _GAP for row in best[1])
    floor = 0.0
    for row in best[1]:
        tall = max(sizes[i][3] - sizes[i][1] for i in row)
        x = (total - sum(sizes[i][2] - sizes[i][0] + _GAP for i in row) + _GAP) / 2
        for i in row:
            _shift(groups, clusters[i], x - sizes[i][0], floor + tall - sizes[i][3])
            x += sizes[i][2] - sizes[i][0] + _GAP
        floor += tall + _GAP
    return (0.0, 0.0, total, floor - _GAP)


def _move_to(groups: list[_Group], cluster: list[int], place: tuple[float, float]) -> None:
    """Bring the root of a cluster to an asked place, as far as the cluster stays on the canvas."""
    x0, y0, x1, y1 = _bounds(groups, cluster)
    largest = max(x1 - x0, y1 - y0)
    if largest > 1 - 2 * _MARGIN:
        scale = (1 - 2 * _MARGIN) / largest
        for one in cluster:
            group = groups[one]
            group.side, group.gap, group.x, group.y = (
                value * scale for value in (group.side, group.gap, group.x, group.y)
            )
    root = groups[cluster[0]]
    _shift(groups, cluster, place[0] - root.x, place[1] - root.y)
    x0, y0, x1, y1 = _bounds(groups, cluster)
    _shift(groups, cluster, max(_MARGIN - x0, 0.0), max(_MARGIN - y0, 0.0))
    _shift(groups, cluster, min(1 - _MARGIN - max(x1, _MARGIN + x1 - x0), 0.0), 0.0)
    _shift(groups, cluster, 0.0, min(1 - _MARGIN - max(y1, _MARGIN + y1 - y0), 0.0))
