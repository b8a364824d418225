"""Pictures of the nodes for their help pages: ``python docs/node_pictures.py http://127.0.0.1:8188`` (a server with the pack).

Each node is put on an empty canvas of a real front end and cut out of a screenshot: ``web/docs/pictures/<node>.png``.
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


def main() -> None:
    target = ROOT / "web" / "docs" / "pictures"
    target.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as profile:
        driver = open_browser(sys.argv[1], Path(profile))
        names = driver.execute_script("return Object.keys(LiteGraph.registered_node_types).filter(n => n.startsWith('ESCDiff'))")
        for name in names:
            left, top, width, height = driver.execute_script(SHOW, name)
            time.sleep(1)
            picture = Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")
            picture.crop((int(left) - MARGIN, int(top) - TITLE - MARGIN, int(left + width) + MARGIN, int(top + height) + MARGIN)) \
                .quantize(256, Image.Quantize.MAXCOVERAGE).save(target / f"{name}.png", optimize=True)
            print(name)
        driver.quit()


if __name__ == "__main__":
    main()
