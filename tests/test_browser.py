"""A real browser opens every workflow that ships, and runs the pocket one; skips loudly without Chromium."""

import json
import os
import time
from pathlib import Path
from urllib.parse import quote

import pytest
from host_browser import available, open_browser
from hosts import ROOT, is_newest, newest

pytestmark = pytest.mark.slow
TEMPLATES = ROOT / "example_workflows"
WORKFLOWS = sorted(p.stem for p in TEMPLATES.glob("*.json"))
START, BOX, APP = (next(w for w in WORKFLOWS if w.startswith(f"{number} ")) for number in (1, 2, 3))
LEARN = {"steps": 2, "batch_size": 2}
QUICK = {"ESCDiffLearnShape": LEARN, "ESCDiffLearnLook": LEARN, "ESCDiffShapeAndLook": LEARN,
         "KSampler": {"steps": 2}, "EmptyLatentImage": {"batch_size": 1}}
# newer ComfyUIs have them, with a model to download
REMOVAL = ("LoadBackgroundRemovalModel", "RemoveBackground")
# where to keep a picture of the whole quick start, run with its own settings
PICTURE = os.environ.get("ESCDIFF_SCREENSHOT")

OPEN = """
const [path, quick, done] = arguments;
fetch(path).then(r => r.json()).then(graph => window.app.loadGraphData(graph)).then(() => {
    for (const node of window.app.graph._nodes)
        for (const [name, value] of Object.entries(quick[node.type] ?? {}))
            node.widgets.find(w => w.name === name).value = value;
    const known = LiteGraph.registered_node_types;
    done(window.app.graph._nodes.map(n => [n.type, n.type in known, !!n.has_errors]));
}).catch(e => done(String(e)));
"""
ARRIVED = (
    "return window.app.graph._nodes.some(n => n.type === 'SaveImage' && n.imgs?.length > 0 && "
    "n.imgs[0].naturalWidth > 0)"
)


@pytest.fixture(scope="module")
def browser(server, tmp_path_factory):
    """Headless Chromium on the server's page, with the front end up."""
    if not available():
        pytest.skip("NO CHROMIUM: no workflow was opened in a browser; install chromium and chromium-driver")
    driver = open_browser(server.url, tmp_path_factory.mktemp("chromium"))
    yield driver
    driver.quit()


def address(name: str) -> str:
    return f"/api/workflow_templates/escdiff/{quote(name)}.json"


def errors(driver) -> list[str]:
    """New error lines of the browser's console, without what the front end asks for in vain: a 404, or the
    world outside."""
    return [e["message"] for e in driver.get_log("browser") if e["level"] == "SEVERE"
            and " 404 " not in e["message"] and "https://" not in e["message"]]


def test_every_workflow_is_among_the_templates(server):
    assert set(WORKFLOWS) <= set(server.get("/workflow_templates")["escdiff"])


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_opens_without_missing_nodes_or_errors(browser, name):
    errors(browser)
    nodes = browser.execute_async_script(OPEN, address(name), {})
    wanted = json.loads((TEMPLATES / f"{name}.json").read_text("utf-8"))["nodes"]
    assert isinstance(nodes, list) and len(nodes) == len(wanted), nodes
    assert [n for n in nodes if (not n[1] or n[2]) and n[0] not in REMOVAL] == [], (
        "nodes that are unknown or red"
    )
    assert errors(browser) == []


def skip_older(host: Path) -> None:
    """Older servers run the same graphs in test_host_server.py and test_host_box.py."""
    if not is_newest(host):
        pytest.skip("an older ComfyUI, whose server runs the graph without a browser")


def test_the_pocket_workflow_runs_in_the_browser(browser, host):
    skip_older(host)
    errors(browser)
    assert isinstance(browser.execute_async_script(OPEN, address(START),
                                                   {} if PICTURE else QUICK), list)
    browser.execute_script("window.app.queuePrompt(0)")
    end = time.monotonic() + 400
    while not browser.execute_script(ARRIVED):
        assert time.monotonic() < end, errors(browser)
        time.sleep(0.5)
    assert errors(browser) == []
    if PICTURE:
        # the whole graph, large enough for its words to be drawn
        browser.set_window_size(2680, 2400)
        browser.execute_script("window.app.canvas.ds.scale = 1; window.app.canvas.ds.offset = [80, 80]; "
                               "window.app.graph.setDirtyCanvas(true, true)")
        time.sleep(3)
        Path(PICTURE).parent.mkdir(parents=True, exist_ok=True)
        browser.save_screenshot(PICTURE)


WIRES = """
const app = window.app;
const types = ['ESCDiffLearnShape', 'ESCDiffLearnLook', 'ESCDiffLearnAttribute', 'ESCDiffMix'];
const made = types.map(
    type => app.graph.add(LiteGraph.createNode(type)) ?? app.graph._nodes.at(-1));
const [shape, look, either, mix] = made, into = name => mix.inputs.findIndex(i => i.name === name);
const fits = (node, name) => !!node.connect(0, mix, into(name));
const wires = [fits(look, 'shape'), fits(shape, 'appearance'), fits(either, 'shape'), fits(shape, 'shape'),
               fits(look, 'appearance')];
const tables = [app.canvas.default_connection_color_byType, LGraphCanvas.link_type_colors];
// what a change of the palette does to types that it does not know
for (const table of tables) table.ESCDIFF_SHAPE = '';
return [wires, tables.map(t => [t.ESCDIFF_SHAPE, t.ESCDIFF_APPEARANCE, t.ESCDIFF_ATTRIBUTE, t.IMAGE])];
"""


def test_a_swapped_wire_does_not_hold_and_wires_have_colours(browser):
    browser.execute_script("window.app.graph.clear()")
    wires, tables = browser.execute_script(WIRES)
    assert wires == [False, False, True, True, True]
    assert tables[0] == tables[1] and all(tables[0]) and len(set(tables[0])) == 4, (
        "and none of ours is a picture's"
    )


def test_a_node_that_shows_text_and_a_picture_has_room_for_both(browser):
    browser.execute_script(
        "window.app.graph.clear(); window.app.graph.add(LiteGraph.createNode('ESCDiffAttributeInfo'))"
    )
    time.sleep(0.5)
    width, height = browser.execute_script("return Array.from(window.app.graph._nodes[0].size)")
    assert width >= 360 and height >= 500, "seven lines and a thumbnail"


FOLDED = """
const done = arguments[0], node = LiteGraph.createNode('ESCDiffLearnShape');
const plain = LiteGraph.createNode('KSampler');
window.app.graph.clear();
window.app.graph.add(node);
window.app.graph.add(plain);
// a newer front end does not draw a widget with a wire, but keeps its row
const has = node.isWidgetRowVisible ?? node.isWidgetVisible;
const shown = () => node.widgets.filter(w => has.call(node, w)).map(w => w.name);
const settled = () => new Promise(resolve => requestAnimationFrame(() => requestAnimationFrame(resolve)));
const look = async () => {
    window.app.graph.setDirtyCanvas(true, true);
    await settled();
    return [shown(), node.size[1]];
};
(async () => {
    const folded = await look();
    node.toggleAdvanced();
    const whole = await look();
    node.toggleAdvanced();
    const number = LiteGraph.createNode('PrimitiveInt');
    window.app.graph.add(number);
    number.connect(0, node, node.inputs.findIndex(i => i.name === 'batch_size'));
    done([folded, whole, (await look())[0], node.widgets.filter(w => w.options.advanced).map(w => w.name),
          plain.widgets.every(w => plain.isWidgetVisible(w))]);
})().catch(e => done(String(e)));
"""


def test_advanced_inputs_are_folded_until_asked_for(browser):
    browser.execute_script("window.app.graph.clear()")
    if not browser.execute_script("return 'getLayoutWidgets' in LiteGraph.createNode('KSampler')"):
        assert browser.execute_script(
            "return LiteGraph.createNode('ESCDiffLearnShape').widgets.every(w => !w.advanced)"
        )
        pytest.skip("this front end leaves the room of folded inputs empty")
    (few, low), (every, high), linked, advanced, plain = browser.execute_async_script(FOLDED)
    assert few == ["class_word", "recipe", "steps", "seed"] and {"batch_size", "preset"} <= set(advanced)
    assert set(every) == {*few, *advanced} and low <= high - 24 * len(advanced), (
        "and the node is as much lower"
    )
    assert linked == [name for name in every if name in (*few, "batch_size")], (
        "a wire ends at an input that is seen"
    )
    assert plain, "other packs' nodes are left alone"


HELP = """
const help = document.querySelector('.node-help-content');
const pictures = [...(help?.querySelectorAll('img') ?? [])];
return help?.querySelector('table') && pictures.length && pictures.every(p => p.complete)
    ? [help.querySelector('h1').innerText, help.scrollWidth - help.clientWidth,
       pictures.every(p => p.naturalWidth > 0)] : null;
"""
OPEN_HELP = """
const button = document.querySelector('[data-testid="info-button"]');
if (document.querySelector('.node-help-content h1')?.innerText !== arguments[0]) button?.click();
return !!button;
"""


@pytest.mark.parametrize(
    "kind, title", [("ESCDiffLearnShape", "ESCDiff Learn Shape"), ("ESCDiffMix", "ESCDiff Mix")]
)
def test_the_help_fits_beside_the_canvas(browser, kind, title):
    browser.execute_script("const node = LiteGraph.createNode(arguments[0]); window.app.graph.clear();"
                           "window.app.graph.add(node); window.app.canvas.selectNode(node)", kind)
    time.sleep(1)
    if not browser.execute_script(OPEN_HELP, title):
        pytest.skip("this front end has no button for help above a node")
    end = time.monotonic() + 30
    while (seen := browser.execute_script(HELP)) is None or seen[0] != title:
        assert time.monotonic() < end, seen
        time.sleep(0.5)
    assert seen[1:] == [0, True], "it scrolls sideways, or its picture is missing"


def test_the_subgraph_is_offered_and_holds_nodes_that_run(server, browser):
    if not server.offers("/global_subgraphs"):
        pytest.skip("this ComfyUI offers no subgraphs of node packs yet")
    entries = [e for e in server.get("/global_subgraphs").items() if "escdiff" in json.dumps(e[1])]
    assert [e["name"] for _, e in entries] == ["ESCDiff Shape and Look"]
    kinds = browser.execute_async_script("""
        const [url, done] = arguments;
        fetch(url).then(r => r.json()).then(e => window.app.loadGraphData(JSON.parse(e.data)))
            .then(() => window.app.graphToPrompt())
            .then(made => done(Object.values(made.output).map(n => [n.class_type, n.inputs])))
            .catch(e => done(String(e)));""", f"/api/global_subgraphs/{entries[0][0]}")
    assert sorted(k for k, _ in kinds) == ["ESCDiffLearnLook", "ESCDiffLearnShape", "ESCDiffMix"], kinds
    mix = next(inputs for kind, inputs in kinds if kind == "ESCDiffMix")
    assert (
        mix["prompt"] == "a photo of a *m with *a appearance on a white background" and len(mix["shape"]) == 2
    )


def test_the_box_runs_and_shows_what_it_learned(browser, host):
    skip_older(host)
    browser.execute_async_script(OPEN, address(BOX), QUICK)
    browser.execute_script("window.app.queuePrompt(0)")
    end = time.monotonic() + 300
    shown = (
        "return window.app.graph._nodes.filter(n => n.imgs?.length > 0 && n.imgs[0].naturalWidth > "
        "0).map(n => n.type).sort()"
    )
    # references may be cached
    while not {"ESCDiffShapeAndLook", "SaveImage"} <= set(browser.execute_script(shown)):
        assert time.monotonic() < end, errors(browser)
        time.sleep(0.5)


NOTE = """
const node = window.app.graph._nodes.find(n => n.type === 'KSampler');
return String(node.widgets.find(w => w.name === '$$node-text-preview')?.value ?? '');
"""


@pytest.mark.ends
def test_a_warning_stands_below_its_node(browser):
    large = {**QUICK, "EmptyLatentImage": {"batch_size": 1, "width": 256, "height": 256}}
    browser.execute_async_script(OPEN, address(START), large)
    browser.execute_script("window.app.queuePrompt(0)")
    end = time.monotonic() + 300
    while not browser.execute_script(NOTE).startswith("Set the latent to 128×128 pixels"):
        assert time.monotonic() < end, errors(browser)
        time.sleep(0.5)


FIELDS = """
return [...document.querySelectorAll('[data-testid="app-mode-widget-item"]')].map(
    item => item.querySelector('[data-testid="builder-widget-label"]')?.innerText);
"""


def test_the_app_s_fields_have_names_of_their_own(host, browser):
    if host != newest():
        pytest.skip("an older ComfyUI, without the app mode")
    browser.execute_async_script(OPEN, address(APP), {})
    end = time.monotonic() + 60
    while not (fields := browser.execute_script(FIELDS)):
        assert time.monotonic() < end, "no app"
        time.sleep(0.5)
    assert fields == ["picture for the shape", "picture for the look", "prompt", "seed"]
