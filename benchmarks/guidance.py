"""What the guidance scale does to learned attributes: ``python benchmarks/guidance.py BENCH [SKIP]``.

BENCH is the folder of a ``bench --quick`` run of the row ``escdiff`` with one budget, SKIP its ``--skip``.
Its two attributes are drawn alone and mixed at several scales, as the bench draws them. Prints table rows.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from escdiff_core.attribute import Attribute  # noqa: E402
from escdiff_core.bench import protocol  # noqa: E402
from escdiff_core.families.load import load_model  # noqa: E402
from escdiff_core.mixing.plan import Use  # noqa: E402

SCALES = (1.25, 1.75, 2.25, 3.0, 4.0)


def main(folder: Path, skip: int = 0) -> None:
    model, uses, subjects = load_model("pocket"), {}, {}
    references = {"shape": protocol.shape_references(), "appearance": protocol.appearance_references()}
    for kind, specs in references.items():
        [file] = (folder / "files").glob(f"escdiff-{kind}-*.safetensors")
        uses[kind], subjects[kind] = Use(Attribute.load(file)), protocol.Subject.of_spec(kind, specs[skip])
    names = " + ".join(subject.name for subject in subjects.values())
    for scale in SCALES:
        alone = [
            protocol.DRAW[kind](model, uses[kind], subjects[kind], guidance=scale).scores for kind in uses
        ]
        mixed = protocol.draw_mix(model, *uses.values(), *subjects.values(), guidance=scale).scores
        seen = (alone[0].shape, alone[0].prompt, alone[1].appearance, alone[1].prompt, mixed.shape,
                mixed.appearance, mixed.prompt, mixed.harmonic)
        print(f"| {names} | {scale:g} | " + " | ".join(f"{value:.2f}" for value in seen) + " |", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
