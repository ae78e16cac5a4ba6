"""Clusters of pictures onto the canvas: in the part that was asked, side by side, as large as they fit."""

from dataclasses import dataclass, field

from miaobi.text.scene import Scene, Thing

MEDIUM = 0.4
"""The share of the picture's side that "medium" stands for beside a number."""
GAP = 0.06
"""Between boxes, in sides of a medium thing."""
_MARGIN = 0.03
_ONE_ALONE, _BEFORE_BACKGROUND = 0.94, 0.62  # most side of a picture

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1, y down."""


@dataclass
class Group:
    """All pictures of one thing: `side` of each, `columns`, and `gap` in the middle for what lies between."""

    thing: Thing
    side: float
    columns: int
    x: float = 0.0
    y: float = 0.0
    gap: float = 0.0
    over: set[int] = field(default_factory=set)
    """Groups that this one may overlap."""

    @property
    def rows(self) -> int:
        return -(-self.thing.count // self.columns)

    @property
    def width(self) -> float:
        return self.columns * self.side + (self.columns - 1) * GAP * self.side + self.gap

    @property
    def height(self) -> float:
        return self.rows * self.side + (self.rows - 1) * GAP * self.side

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
        pitch = self.side * (1 + GAP)
        for row in range(self.rows):
            here = min(self.columns, left)
            left -= here
            y = self.y - self.height / 2 + row * pitch
            for column in range(here):
                x = self.x - (here * pitch - GAP * self.side) / 2 + column * pitch
                if self.gap:
                    x += self.gap / 2 * (1 if column >= here / 2 else -1)
                found.append((x, y, x + self.side, y + self.side))
        return found


def bounds(groups: list[Group], cluster: list[int]) -> Box:
    boxes = [groups[one].box for one in cluster]
    return (
        min(box[0] for box in boxes),
        min(box[1] for box in boxes),
        max(box[2] for box in boxes),
        max(box[3] for box in boxes),
    )


def shift(groups: list[Group], cluster: list[int], x: float, y: float) -> None:
    for one in cluster:
        groups[one].x += x
        groups[one].y += y


def part(scene: Scene, number: int, word: str) -> bool:
    """Whether a thing is asked to be in that part of the picture."""
    relation = scene.things[number].relation
    return relation is not None and not relation.to and relation.word == word


def pack(scene: Scene, groups: list[Group], clusters: list[list[int]]) -> tuple[float, float, float]:
    """Spread clusters over left, middle and right, top, middle and bottom; the scale and shift that then fit
    the canvas."""
    cells: dict[tuple[int, int], list[list[int]]] = {}
    for cluster in clusters:
        asked = [
            word for one in cluster for word in ("left", "right", "above", "below") if part(scene, one, word)
        ]
        cell = (
            1 - ("left" in asked) + ("right" in asked),
            1 - ("above" in asked) + ("below" in asked),
        )
        cells.setdefault(cell, []).append(cluster)
    blocks = {cell: _shelves(groups, members) for cell, members in cells.items()}
    space = 2 * GAP
    widths = _tracks({cell: box[2] for cell, box in blocks.items()}, 0)
    heights = _tracks({cell: box[3] for cell, box in blocks.items()}, 1)
    starts = [[sum(one + space for one in sizes[:i] if one) for i in range(3)] for sizes in (widths, heights)]
    for (column, row), block in blocks.items():
        x = starts[0][column] + (widths[column] - block[2]) / 2
        y = starts[1][row] + (heights[row] - block[3]) / 2
        for cluster in cells[column, row]:
            shift(groups, cluster, x, y)
    used = [sum(one + space for one in sizes if one) - space for sizes in (widths, heights)]
    longest = max([*used, 1e-6])
    room = 1 - 2 * _MARGIN
    most = _BEFORE_BACKGROUND if scene.background else _ONE_ALONE
    members = [groups[one] for cluster in clusters for one in cluster]
    limits = [most / max((group.side for group in members), default=1.0), room / longest]
    limits += [MEDIUM for group in members if not isinstance(group.thing.size, str)]
    scale = min(limits)
    if not clusters:
        return MEDIUM, 0.0, 0.0
    spare_y = 1 - 2 * _MARGIN - used[1] * scale
    low = 0.7 if scene.background else 0.5  # before a background things stand rather low
    return scale, _MARGIN + (room - used[0] * scale) / 2, _MARGIN + spare_y * low


def _tracks(sizes: dict[tuple[int, int], float], axis: int) -> list[float]:
    """The three widths or heights of the grid; a thing that lies on one side leaves the other side free."""
    tracks = [max((size for cell, size in sizes.items() if cell[axis] == i), default=0.0) for i in range(3)]
    if not tracks[1] and bool(tracks[0]) != bool(tracks[2]):
        tracks[0] = tracks[2] = max(tracks)
    return tracks


def _shelves(groups: list[Group], clusters: list[list[int]]) -> Box:
    """Clusters in rows that stand on their floor, in as many rows as make the whole most square."""
    sizes = [bounds(groups, one) for one in clusters]
    best: tuple[float, list[list[int]]] | None = None
    for rows in range(1, len(clusters) + 1):
        per = -(-len(clusters) // rows)
        split = [list(range(i, min(i + per, len(clusters)))) for i in range(0, len(clusters), per)]
        width = max(sum(sizes[i][2] - sizes[i][0] + GAP for i in row) for row in split)
        height = sum(max(sizes[i][3] - sizes[i][1] for i in row) + GAP for row in split)
        if best is None or max(width, height) < best[0] - 1e-9:
            best = (max(width, height), split)
    assert best is not None
    total = max(sum(sizes[i][2] - sizes[i][0] + GAP for i in row) - GAP for row in best[1])
    floor = 0.0
    for row in best[1]:
        tall = max(sizes[i][3] - sizes[i][1] for i in row)
        x = (total - sum(sizes[i][2] - sizes[i][0] + GAP for i in row) + GAP) / 2
        for i in row:
            shift(groups, clusters[i], x - sizes[i][0], floor + tall - sizes[i][3])
            x += sizes[i][2] - sizes[i][0] + GAP
        floor += tall + GAP
    return (0.0, 0.0, total, floor - GAP)


def move_to(groups: list[Group], cluster: list[int], place: tuple[float, float]) -> None:
    """Bring the root of a cluster to an asked place, as far as the cluster stays on the canvas."""
    x0, y0, x1, y1 = bounds(groups, cluster)
    largest = max(x1 - x0, y1 - y0)
    if largest > 1 - 2 * _MARGIN:
        scale = (1 - 2 * _MARGIN) / largest
        for one in cluster:
            group = groups[one]
            group.side, group.gap, group.x, group.y = (
                value * scale for value in (group.side, group.gap, group.x, group.y)
            )
    root = groups[cluster[0]]
    shift(groups, cluster, place[0] - root.x, place[1] - root.y)
    x0, y0, x1, y1 = bounds(groups, cluster)
    shift(groups, cluster, max(_MARGIN - x0, 0.0), max(_MARGIN - y0, 0.0))
    shift(groups, cluster, min(1 - _MARGIN - max(x1, _MARGIN + x1 - x0), 0.0), 0.0)
    shift(groups, cluster, 0.0, min(1 - _MARGIN - max(y1, _MARGIN + y1 - y0), 0.0))
