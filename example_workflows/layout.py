"""Where nodes and notes stand on the canvas, and how large: left to right, nothing overlapping."""

from graph import SEEDS, WIDGETS, inputs_of, links_of, sources_first

SLOT, WIDGET, TITLE = 20, 28, 30            # heights in the front end, with a little room to spare
GAP_X, GAP_Y = 40, 40
WIDTH, WIDE = 260, 360
TALLEST = (800, 900, 1000, 1100)           # of a column: the one is taken that shows the graph largest
# three quarters of a common screen, where the front end shows all of a new graph
PAGE = (1425, 643)
LETTER, LINE = 7, 18                        # of a note's text, with a little room to spare
EXTRA_HEIGHT = {
    "LoadImage": 300, "SaveImage": 360, "PreviewImage": 260, "ESCDiffExampleReference": 190,
    "ESCDiffLearnAttribute": 240, "ESCDiffLearnShape": 240, "ESCDiffLearnLook": 240,
    "ESCDiffShapeAndLook": 280, "ESCDiffSaveAttribute": 90
}


def size_of(node: dict, definition: dict, folded: bool = False) -> list[int]:
    """Width and height, rather too large than too small, so that nothing overlaps in the front end.

    ``folded``: without the inputs marked advanced, which the front end may fold away; one that does not makes
    the node larger.
    """
    inputs = inputs_of(definition)
    widgets = [
        settings
        for kind, settings in inputs.values()
        if kind in WIDGETS and not (folded and settings.get("advanced"))
    ]
    tall = sum(bool(s.get("multiline")) for s in widgets)
    seeds = sum(name in SEEDS for name in inputs)
    rows = max(sum(kind not in WIDGETS for kind, _ in inputs.values()), len(definition["output"]))
    height = rows * SLOT + (len(widgets) + seeds) * WIDGET + tall * 90 + EXTRA_HEIGHT.get(
        node["class_type"], 0) + 20
    return [WIDE if tall else WIDTH, height]


def note_size(note: str, width: int) -> list[int]:
    """Width and height of a note of that width; a list's lines are indented."""
    lines = sum(-(-len(line) * LETTER // (width - 60)) or 1 for line in note.split("\n"))
    return [width, 40 + lines * LINE]


def columns_of(graph: dict) -> dict[str, int]:
    """Which column each node stands in: its depth, and for one without inputs the column before whoever uses
    it first."""
    order, column = sources_first(graph), {}
    for key in order:
        column[key] = max((column[s] + 1 for s, _ in links_of(graph[key]).values()), default=0)
    for key in order:
        users = [column[k] for k in graph if any(s == key for s, _ in links_of(graph[k]).values())]
        if not links_of(graph[key]) and users:
            column[key] = min(users) - 1
    return column


def zoom_of(places: dict[str, list[int]], sizes: dict[str, list[int]]) -> float:
    """How large a new graph is shown, where all of it is to be seen; words go below 0.57."""
    return min(PAGE[i] / max(places[key][i] + sizes[key][i] for key in places) for i in (0, 1))


def lay_out(
    graph: dict, sizes: dict[str, list[int]], left: int, top: int, tallest: int
) -> dict[str, list[int]]:
    """Positions left to right by column; within one, in the order of the API graph. One that is too tall goes
    on beside itself."""
    column, places, x = columns_of(graph), {}, left
    for number in range(max(column.values()) + 1):
        y, width = top, 0
        for key in (k for k in graph if column[k] == number):
            if width and y + TITLE + sizes[key][1] > top + tallest:
                y, x, width = top, x + width + GAP_X, 0
            places[key] = [x, y + TITLE]
            y, width = y + TITLE + sizes[key][1] + GAP_Y, max(width, sizes[key][0])
        x += width + GAP_X
    return places
