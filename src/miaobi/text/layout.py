"""From relations to boxes: clusters of related things, packed onto the canvas.

What is in, on, behind or in front of a thing makes a block with it. Blocks that lie to one another form a
cluster, laid out around its first block in a plane of its own; clusters go to the part of the picture that
was asked, or side by side, and the whole is scaled until it fits. Boxes overlap only within a block.
"""

from collections.abc import Sequence

from miaobi.text.packing import GAP, MEDIUM, Box, Group, bounds, move_to, pack, part, shift
from miaobi.text.scene import Layer, Scene, Thing

_SIDES = {"small": 0.6, "medium": 1.0, "large": 1.5}
_COLUMNS = (1, 1, 2, 3, 2, 3, 3, 4, 4, 3, 4, 4, 4)  # for a count


def _side(thing: Thing) -> float:
    return _SIDES[thing.size] if isinstance(thing.size, str) else thing.size / MEDIUM


def layout(scene: Scene) -> list[Layer]:
    """The layers of a scene, in the order to paste them. Boxes are squares inside the canvas."""
    groups = [Group(thing, _side(thing), _COLUMNS[thing.count]) for thing in scene.things]
    clusters = _clusters(scene, groups, _blocks(scene, groups))
    free = [one for one in clusters if scene.things[one[0]].place is None]
    scale, at_x, at_y = pack(scene, groups, free)
    for group in groups:
        group.side *= scale
        group.gap *= scale
        group.x, group.y = group.x * scale + at_x, group.y * scale + at_y
    for cluster in clusters:
        place = scene.things[cluster[0]].place
        if place is not None:
            move_to(groups, cluster, place)
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


def _blocks(scene: Scene, groups: list[Group]) -> dict[int, list[int]]:
    """{thing: its block, all things of it, put relative to its first}, what overlaps in one block."""
    block: dict[int, list[int]] = {}
    for number in _in_order(scene, range(len(groups))):
        to, relation = _targets(scene, number), scene.things[number].relation
        word = relation.word if relation and to else ""
        target = groups[to[0]] if to else None
        if target and word == "between" and len(to) == 1 and target.thing.count > 1:
            target.columns = max(
                2, target.columns if target.thing.count > 4 else (target.thing.count + 1) // 2
            )
            target.gap = max(target.gap, groups[number].width + 2 * GAP)
            groups[number].x, groups[number].y = target.x, target.y
            _push_clear(groups, [one for one in block[to[0]] if one != to[0]], number, (0.0, -1.0))
        elif target and word in ("in", "on"):
            _fit_onto(scene, groups, block[to[0]], number, word)
        elif target and word in ("behind", "front"):
            up = word == "behind"
            edge = target.box[1] if up else target.box[3]
            groups[number].x = target.x + (0.25 if up else -0.2) * target.width
            groups[number].y = edge + (-1 if up else 1) * 0.1 * groups[number].height
            groups[number].over = {to[0], *target.over}
            _push_clear(groups, block[to[0]], number, (0.0, -1.0 if up else 1.0))
        else:
            block[number] = [number]
            continue
        block[number] = block[to[0]]
        block[number].append(number)
    return block


def _in_order(scene: Scene, numbers: Sequence[int]) -> list[int]:
    """Things, each after those that it lies to."""
    order: list[int] = []
    while len(order) < len(numbers):
        order.append(
            next(one for one in numbers if one not in order and {*_targets(scene, one)}.issubset(order))
        )
    return order


def _fit_onto(scene: Scene, groups: list[Group], block: list[int], number: int, word: str) -> None:
    """Put a group in the middle of its target or onto its upper edge, in rows with the others there."""
    relation = scene.things[number].relation
    assert relation is not None
    target = groups[relation.to[0]]
    there = [one for one, thing in enumerate(scene.things) if thing.relation == relation and not thing.place]
    for one in there:
        count = scene.things[one].count
        groups[one].side = _side(scene.things[one])
        groups[one].columns = (count if count < 5 else -(-count // 2)) if word == "on" else _COLUMNS[count]
    room = (
        (0.66 * target.width, 0.6 * target.height) if word == "in" else (target.width, 0.85 * target.height)
    )
    most = 1 if word == "on" else len(there)
    fits = []
    for rows in range(1, most + 1):
        per = -(-len(there) // rows)
        split = [there[i : i + per] for i in range(0, len(there), per)]
        width = max(sum(groups[one].width * (1 + GAP) for one in row) for row in split)
        height = sum(max(groups[one].height for one in row) * (1 + GAP) for row in split)
        fits.append((min(0.8, room[0] / width, room[1] / height), -rows, height, split))
    scale, _, height, split = max(fits)
    for one in there:
        groups[one].side *= scale
    group = groups[number]
    y = target.y - height * scale / 2
    for row in split:
        tall = max(groups[one].height for one in row)
        x = target.x - sum(groups[one].width * (1 + GAP) for one in row) / 2
        for one in row:
            if one == number:
                group.x = x + group.width * (1 + GAP) / 2
                group.y = y + tall - group.height / 2
            x += groups[one].width * (1 + GAP)
        y += tall * (1 + GAP)
    group.over = {relation.to[0], *target.over, *there}
    if word == "on":
        group.y = target.box[1] + 0.3 * target.side - group.height / 2
        _push_clear(groups, block, number, (0.0, -1.0))


def _push_clear(groups: list[Group], others: list[int], number: int, away: tuple[float, float]) -> None:
    """Move a group on in a direction until it lies clear of the others of its block."""
    group = groups[number]
    for _ in range(len(others) + 1):
        for one in others:
            if one not in group.over:
                x, y = _clear(groups[one].box, group.box, away)
                group.x, group.y = group.x + x, group.y + y


def _clear(fixed: Box, moved: Box, away: tuple[float, float]) -> tuple[float, float]:
    """How far `moved` has to go in a direction to lie clear of `fixed`."""
    if min(fixed[2], moved[2]) - max(fixed[0], moved[0]) < 1e-6:
        return 0.0, 0.0
    if min(fixed[3], moved[3]) - max(fixed[1], moved[1]) < 1e-6:
        return 0.0, 0.0
    if away[0]:
        return (fixed[2] + GAP - moved[0] if away[0] > 0 else fixed[0] - GAP - moved[2]), 0.0
    return 0.0, (fixed[3] + GAP - moved[1] if away[1] > 0 else fixed[1] - GAP - moved[3])


def _clusters(scene: Scene, groups: list[Group], block: dict[int, list[int]]) -> list[list[int]]:
    """Things of each cluster, its root first, with its blocks put relative to one another."""
    partner = _partners(scene)
    owner: dict[int, list[list[int]]] = {}
    clusters = []
    waiting = [number for number in block if block[number][0] == number]
    while waiting:
        number = next(
            one
            for one in waiting
            if all(block[other][0] in owner for other in _targets(scene, one))
            and (one not in partner or block[partner[one][0]][0] in owner)
        )
        waiting.remove(number)
        to = _targets(scene, number)
        if number in partner:
            near, middle = partner[number]
            cluster = owner[block[near][0]]
            first, mine = bounds(groups, block[near]), bounds(groups, block[number])
            between = bounds(groups, block[middle])
            space = between[2] - between[0] + 2 * GAP
            shift(groups, block[number], first[2] + space - mine[0], first[3] - mine[3])
            _push_block(groups, cluster, block[number], (1.0, 0.0))
        elif to:
            cluster = owner[block[to[0]][0]]
            _put(scene, groups, cluster, number, block)
        else:
            cluster = []
            clusters.append(cluster)
        cluster.append(block[number])
        owner[number] = cluster
    return [[one for each in cluster for one in each] for cluster in clusters]


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
        near, far = to
        if part(scene, root(near), "right") or part(scene, root(far), "left"):
            near, far = far, near
        base = root(far)
        if root(near) == base:
            continue
        if scene.things[base].place is not None and scene.things[root(near)].place is None:
            near, base = far, root(near)
        if scene.things[base].place is None:
            found[base] = (near, middle)
    return found


def _put(
    scene: Scene, groups: list[Group], cluster: list[list[int]], number: int, block: dict[int, list[int]]
) -> None:
    """Put a block beside, above, below or between blocks that have their place."""
    relation = scene.things[number].relation
    assert relation is not None
    word, to = relation.word, relation.to
    x0, y0, x1, y1 = bounds(groups, block[to[0]])
    box = bounds(groups, block[number])
    x, y = groups[to[0]].x - groups[number].x, groups[to[0]].y - groups[number].y
    away = (0.0, -1.0)
    if word == "above":
        y = y0 - GAP - box[3]
    elif word == "below":
        y, away = y1 + GAP - box[1], (0.0, 1.0)
    elif word == "between" and len(to) == 2:
        a0, b0, a1, b1 = bounds(groups, block[to[1]])
        x = (min(x1, a1) + max(x0, a0)) / 2 - (box[0] + box[2]) / 2
        y = (min(y1, b1) + max(y0, b0)) / 2 - (box[1] + box[3]) / 2
        if abs(y1 - b1) < 1e-6:
            y = y1 - box[3]
    else:
        right = x1 + 2 * GAP
        taken = any(
            other[0] < right < other[2]
            for other in (bounds(groups, one) for one in cluster if one is not block[to[0]])
        )
        left = word == "left" or (word == "beside" and taken)
        away = (-1.0, 0.0) if left else (1.0, 0.0)
        x = x0 - GAP - box[2] if left else x1 + GAP - box[0]
        y = y1 - box[3]
    shift(groups, block[number], x, y)
    _push_block(groups, cluster, block[number], away)


def _push_block(
    groups: list[Group], cluster: list[list[int]], block: list[int], away: tuple[float, float]
) -> None:
    """Move a block on in a direction until it lies clear of the others of its cluster."""
    for _ in range(len(cluster) + 1):
        for one in cluster:
            x, y = _clear(bounds(groups, one), bounds(groups, block), away)
            shift(groups, block, x, y)
