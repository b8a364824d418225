// What the front end cannot know of the pack by itself: colours for its wires, so that a shape, a look and either of
// them are told apart at a glance, how much room a text needs, and which inputs fold away.
import { app } from "../../scripts/app.js";

const SHAPE = "#22b8cf", LOOK = "#b8e04a", EITHER = "#e8dcc0";
const COLOURS = {
    ESCDIFF_SHAPE: SHAPE, ESCDIFF_SHAPE_TOKEN: SHAPE, ESCDIFF_APPEARANCE: LOOK, ESCDIFF_APPEARANCE_TOKEN: LOOK,
    ESCDIFF_ATTRIBUTE: EITHER,
    // inputs that take two types have the colour of what belongs there
    "ESCDIFF_SHAPE,ESCDIFF_ATTRIBUTE": SHAPE, "ESCDIFF_APPEARANCE,ESCDIFF_ATTRIBUTE": LOOK,
    "ESCDIFF_SHAPE,ESCDIFF_APPEARANCE,ESCDIFF_ATTRIBUTE": EITHER,
    "ESCDIFF_SHAPE_TOKEN,ESCDIFF_APPEARANCE_TOKEN": EITHER,
};

// Width and height of a new node that shows a text and a picture after its run.
const ROOM = { ESCDiffAttributeInfo: [380, 520] };

// A change of the colour palette empties the colour of every type that the palette does not name: ours stays under it.
function keep(table) {
    for (const [type, colour] of Object.entries(COLOURS)) {
        let chosen = table[type];
        Object.defineProperty(table, type, {
            get: () => chosen || colour, set: (value) => { chosen = value; }, enumerable: true, configurable: true,
        });
    }
}

// Inputs marked advanced. A node drawn as HTML folds them by the widgets' options; one on the canvas by the widgets
// themselves, to which the front end does not copy the mark. It leaves their room empty, so they leave the layout too;
// one too old for that folds nothing. A wire must be seen to end somewhere: a widget that has one is never folded.
function fold(node) {
    const marked = node.widgets?.filter((widget) => widget.options?.advanced) ?? [];
    const isLinked = (widget) => node.inputs?.some((input) => input.widget?.name === widget.name && input.link != null);
    if (!marked.length || !node.getLayoutWidgets) return;
    if (app.extensionManager?.setting?.get("Comfy.Node.AlwaysShowAdvancedWidgets")) return;
    (marked[0].visibility ? write : define)(node, marked, isLinked);
    const laidOut = node.getLayoutWidgets;
    node.getLayoutWidgets = function () {
        return laidOut.call(this).filter((widget) => this.showAdvanced || !widget.advanced);
    };
    node.setSize(node.computeSize());
}

// The mark is part of a widget's visibility, and written there.
function write(node, marked, isLinked) {
    const mark = () => marked.forEach((widget) => { widget.advanced = !isLinked(widget); });
    const changed = node.onConnectionsChange;
    node.onConnectionsChange = function (...change) {
        mark();
        return changed?.apply(this, change);
    };
    mark();
}

// The mark is any property.
function define(node, marked, isLinked) {
    for (const widget of marked)
        Object.defineProperty(widget, "advanced", {
            get: () => !isLinked(widget), set: () => {}, enumerable: true, configurable: true,
        });
}

app.registerExtension({
    name: "ESCDiff",
    nodeCreated(node) {
        if (node.comfyClass?.startsWith("ESCDiff")) fold(node);
        if (node.comfyClass in ROOM) node.setSize(ROOM[node.comfyClass]);       // a saved size comes later, and counts
    },
    setup() {
        for (const table of [app.canvas?.default_connection_color_byType, globalThis.LGraphCanvas?.link_type_colors])
            if (table) keep(table);
        // nodes that are drawn as HTML take their colours from variables
        const rules = Object.entries(COLOURS).filter(([type]) => !type.includes(","))
            .map(([type, colour]) => `--color-datatype-${type}: ${colour};`);
        document.head.append(Object.assign(document.createElement("style"), { textContent: `:root { ${rules.join(" ")} }` }));
    },
});
