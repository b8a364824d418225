"""Pictures of the nodes for their help pages: ``python docs/node_pictures.py http://127.0.0.1:8188`` (a
server with the pack).

Each node is put on an empty canvas of a real front end and cut out of a screenshot:
``web/docs/pictures/<node>.png``. Last the help panel as the front end shows it: ``docs/pictures/help.png``.
"""

import io
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
from host_browser import open_browser  # noqa: E402

MARGIN, TITLE = 12, 30
SHOW = """
const app = window.app;
app.graph.clear();
const node = LiteGraph.createNode(arguments[0]);
app.graph.add(node);
node.setSize([Math.max(330, node.computeSize()[0]), node.computeSize()[1]]);
node.pos = [600, 120];
app.canvas.ds.scale = 1;
app.canvas.ds.offset = [0, 0];
app.graph.setDirtyCanvas(true, true);
const box = app.canvas.canvas.getBoundingClientRect();
return [box.left + 600, box.top + 120, node.size[0], node.size[1]];
"""
# The panel beside the canvas with a node's help, scrolled to its inputs. Returns its box, empty while it is
# not there.
HELP = """
const help = document.querySelector('.node-help-content');
if (!help?.querySelector('table')) {
    window.app.canvas.selectNode(window.app.graph._nodes[0]);
    if (!help) document.querySelector('[data-testid="info-button"]')?.click();
    return [];
}
help.querySelector('h2').scrollIntoView();
const box = help.getBoundingClientRect(), first = help.querySelector('h2').getBoundingClientRect();
return [box.left, first.top, box.right, window.innerHeight];
"""


def help_panel(driver) -> Image.Image:
    """A picture of the help of the node on the canvas. Raises TimeoutError if the front end has no button for
    it."""
    for _ in range(30):
        if driver.execute_script(HELP):
            time.sleep(1)
            box = [int(x) for x in driver.execute_script(HELP)]
            return Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB").crop(box)
        time.sleep(0.5)
    raise TimeoutError("this front end shows no help beside the canvas")


def main() -> None:
    target = ROOT / "web" / "docs" / "pictures"
    target.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as profile:
        driver = open_browser(sys.argv[1], Path(profile))
        names = driver.execute_script(
            "return Object.keys(LiteGraph.registered_node_types).filter(n => n.startsWith('ESCDiff'))"
        )
        for name in names:
            left, top, width, height = driver.execute_script(SHOW, name)
            time.sleep(1)
            picture = Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")
            picture.crop(
                (
                    int(left) - MARGIN,
                    int(top) - TITLE - MARGIN,
                    int(left + width) + MARGIN,
                    int(top + height) + MARGIN,
                )
            ).quantize(256, Image.Quantize.MAXCOVERAGE).save(target / f"{name}.png", optimize=True)
            print(name)
        driver.execute_script(SHOW, "ESCDiffLearnShape")
        help_panel(driver).quantize(64).save(ROOT / "docs" / "pictures" / "help.png", optimize=True)
        driver.quit()


if __name__ == "__main__":
    main()
