"""Part of host_probe: files for people without the pack, through the stock loaders."""

import json
from pathlib import Path

from host_probe_base import (
    BASE,
    HOST,
    core,
    draw,
    empty,
    found,
    host_nodes,
    largest,
    node,
    stock,
    torch,
)
from host_probe_mistakes import said
from hosts import is_newest


def exports(model, clip, made):
    """Stock LoraLoader and ``embedding:`` against our own apply, on the same noise."""
    shape = made["shape"]
    node("ESCDiffExport", attribute=shape, form="full", name="probe_delta")
    node("ESCDiffExport", attribute=shape, form="embedding", name="probe_token")
    ours = draw(*node("ESCDiffMix", model=model, clip=clip, prompt="a photo of a *m on a white background",
                      negative="", shape=shape)[:3])
    loaded, _ = stock("LoraLoader", "load_lora", model=model, clip=clip, lora_name="probe_delta.safetensors",
                      strength_model=1.0, strength_clip=1.0)
    prompts = [stock("CLIPTextEncode", "encode", clip=clip, text=text)[0]
               for text in ("a photo of a embedding:probe_token on a white background", "")]
    theirs = draw(loaded, *prompts)
    found["export_difference"], found["export_scale"] = largest(ours, theirs), float(ours.abs().max())
    path = node("ESCDiffSaveAttribute", attribute=shape, name="probe/shape")[1]
    found["saved_at"] = str(Path(path).relative_to(BASE))
    again = node("ESCDiffLoadAttribute", file="probe/shape.safetensors")[0]
    found["loaded_draws_the_same"] = torch.equal(
        ours,
        draw(*node("ESCDiffMix", model=model, clip=clip, prompt="a photo of a *m on a white background",
                   negative="", shape=again)[:3]))
    found["saved_twice"] = [
        Path(node("ESCDiffSaveAttribute", attribute=made[kind], name="probe/shape")[1]).name
        for kind in ("shape", "appearance")
    ]
    node("ESCDiffSaveAttribute", attribute=shape, name="probe/coffee_filter")
    filters, folders = core("escdiff_core.learning.filters"), core("nodes.host.folders")
    filters.save_filters(
        {"shape": filters.AttributeFilter(4, 0, 4, 4)}, folders.attribute_path("probe/mine"), "f" * 64, 0.1
    )
    found["free_names"] = [
        folders.free_path("probe/mine", lambda path, may=may: may).name for may in (False, True)
    ]
    (BASE / "elsewhere").mkdir()
    (BASE / "models" / "escdiff" / "linked").symlink_to(BASE / "elsewhere")
    node("ESCDiffSaveAttribute", attribute=shape, name="linked/shape")
    found["linked"] = [p.name for p in (BASE / "elsewhere").iterdir()]
    found["other_slashes"] = [
        Path(node("ESCDiffSaveAttribute", attribute=shape,
                  name="probe\\win")[1]).relative_to(BASE).as_posix(),
        node("ESCDiffLoadAttribute", file="probe\\win.safetensors")[0].kind,
        *(host_nodes.NODE_CLASS_MAPPINGS["ESCDiffLoadAttribute"].validate_inputs(file=f)
          for f in ("probe\\win.safetensors", "probe/win.safetensors", None, "nowhere.safetensors"))
    ]
    given = {
        "ESCDiffSaveAttribute": {"attribute": shape},
        "ESCDiffExport": {"attribute": shape, "form": "lora"},
    }
    found["names"] = {
        f"{node_id}: {name[:9]}": [
            host_nodes.NODE_CLASS_MAPPINGS[node_id].validate_inputs(name=name),
            said(node_id, name=name, **inputs),
        ]
        for node_id, inputs in given.items()
        for name in ("n" * 240, "nul\0", "sub/", "..", ".hidden", "con", "dot.", "a:b", "")
    }
    found["leads_out"] = said("ESCDiffSaveAttribute", attribute=shape, name="../shape")
    over = node("ESCDiffSaveAttribute", attribute=made["appearance"], name="probe/shape_02", overwrite=True)[
        1
    ]
    found["overwritten"] = Path(over).name
    pictures, versions = BASE / "pictures", []
    for name in ("", "one", "two"):
        pictures.mkdir(exist_ok=True)
        if name:
            (pictures / name).write_text(name)
        trained = host_nodes.NODE_CLASS_MAPPINGS["ESCDiffTrainFilters"].fingerprint_inputs
        versions += [trained(folder=str(pictures)), trained(folder=f'"{pictures}"\n')]
    found["version_of_no_folder"] = [type(trained(folder=f)).__name__ for f in ("", "a\0b", "n" * 300)]
    found["versions"] = [versions.index(v) for v in versions]
    found["listed"] = [sorted(folders.attribute_files(filters=f)) for f in (False, True)]
    boxed = node("ESCDiffMixedSampler", model=model, clip=clip,
                 prompt="a photo of a *m on a white background", negative="",
                 latent=empty(), seed=1, steps=3, cfg=5.0, sampler="euler",
                 scheduler="normal", denoise=1.0, shape=shape)[0]["samples"]
    found["mixed_sampler_difference"] = largest(ours, boxed)
    image, mask = node("ESCDiffExampleReference", example=core("nodes.reference").example_names()[0])
    if is_newest(HOST):
        found["score_of_itself"] = node("ESCDiffScore", images=image, shape_reference=image, shape_mask=mask,
                                        appearance_reference=image, appearance_mask=mask)[:3]
    found["sheet"] = list(node("ESCDiffCompare", images=image, labels="one")[0].shape)
    text, picture, everything = node("ESCDiffAttributeInfo", attribute=shape)
    found["info"] = [text.split("\n")[0], list(picture.shape), json.loads(everything)["kind"]]
