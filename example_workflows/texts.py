"""The templates' titles, which are their files' names, and the note that stands beside each graph."""

CHECKPOINT = "1. Choose a {} checkpoint. ComfyUI offers the download if you have none.\n"
LEARN_NOTE = (
    CHECKPOINT
    + "2. Upload one picture. A subject on a plain background works best, or connect a mask (white = "
    "subject).\n3. {}\n4. **Run**. The file goes to models/escdiff. A GPU is needed for a model of "
    "this size.\n\nNext: the template *{}*."
)
CLASS_WORD = "Say in **class_word** what the subject is, in one word: vase, cat."
NO_CLASS_WORD = "Leave **class_word** empty: the usual recipe for a look does not use it."
MIX_NOTE = (
    "1. Learn a shape and a look first (templates *{}* and *{}*).\n2. Press **R**, then choose both "
    "files, and the checkpoint they were learned on.\n3. In the prompt, `*m` is the shape and `*a` "
    "the look."
)
BOX_NOTE = (
    "Press **Run**: nothing to download, a CPU will do.\n\n1. The box learns the shape of A and the "
    "look of B. This takes two to four minutes on two CPU cores, and is done once.\n2. Then it draws. "
    "Another prompt or seed takes seconds.\n\nIn the prompt, `*m` is the shape and `*a` the look."
)
TITLES = {      # of the files, which are what ComfyUI shows among its templates, in this order
    "pocket_quickstart": "1 Quick start, nothing to download",
    "shape_and_look": "2 Shape and Look in one box",
    "shape_and_look_app": "3 Shape and Look as an app",
    "sd15_learn_shape": "4 SD 1.5, learn a shape",
    "sd15_learn_appearance": "5 SD 1.5, learn a look",
    "sd15_mix": "6 SD 1.5, mix a shape and a look",
    "sd15_mix_controlnet": "7 SD 1.5, mix with ControlNet",
    "sd15_photographs": "8 SD 1.5, photographs (background removal)",
    "batch": "9 SD 1.5, for scripts",
    "sdxl_learn_shape": "10 SDXL, learn a shape",
    "sdxl_learn_look": "11 SDXL, learn a look",
    "sdxl_mix": "12 SDXL, mix a shape and a look",
}
NOTES = {
    "pocket_quickstart": "Press **Run**: nothing to download, a CPU will do.\n\n"
    "The tiny model that comes with the pack learns the shape of A and the look of B, and draws both in one. "
    "This takes two to four minutes on two CPU cores. Once learned, both are found in the cache, and only "
    "the drawing is done again.",
    "shape_and_look": BOX_NOTE,
    "shape_and_look_app": BOX_NOTE,
    "sd15_learn_shape": LEARN_NOTE.format(
        "Stable Diffusion 1.5", CLASS_WORD, TITLES["sd15_learn_appearance"]
    ),
    "sd15_learn_appearance": LEARN_NOTE.format("Stable Diffusion 1.5", NO_CLASS_WORD, TITLES["sd15_mix"]),
    "sd15_mix": MIX_NOTE.format(TITLES["sd15_learn_shape"], TITLES["sd15_learn_appearance"]),
    "sd15_mix_controlnet": MIX_NOTE.format(TITLES["sd15_learn_shape"], TITLES["sd15_learn_appearance"])
    + "\n4. Choose a ControlNet for SD 1.5; this one follows the edges of the picture.",
    "sdxl_learn_shape": LEARN_NOTE.format("SDXL", CLASS_WORD, TITLES["sdxl_learn_look"]),
    "sdxl_learn_look": LEARN_NOTE.format("SDXL", NO_CLASS_WORD, TITLES["sdxl_mix"]),
    "sdxl_mix": MIX_NOTE.format(TITLES["sdxl_learn_shape"], TITLES["sdxl_learn_look"]),
    "sd15_photographs": CHECKPOINT.format("Stable Diffusion 1.5")
    + "2. Choose the background removal model, or let ComfyUI download it. Its nodes came with ComfyUI "
    "0.20; on an older one paint the masks by hand (right click, Open in MaskEditor).\n3. Upload both "
    "photographs.\n4. **Run**. The node shows what it took for the subject.",
    "batch": "Learns both attributes and mixes them in one go.\n\nThe same graph in "
    "`example_workflows/api/batch.json` is for scripts: they replace the two pictures, the words and "
    "the seeds by node name, such as `shape_picture.image` or `mix.prompt`.",
}
