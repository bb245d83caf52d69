"""The weights of a run as those that come along, in float16: python scripts/weights/ship.py RUN

Its card, OUT/README.md, stays as it is; write there what has changed.
"""
import shutil
from dataclasses import replace
from pathlib import Path
from fastcore.script import call_parse
from meloformer.net.checkpoint import BRIDGE_FILES, find_checkpoint, write_manifest
from meloformer.net.model import MeloFormer
from meloformer.tokens.hid import HID

@call_parse
def main(
    run: str, # Run, of which the best checkpoint is taken, or a checkpoint
    out: str = 'meloformer/weights', # Folder in the package
    no_attributes: bool = False # Refuse attributes, where the model does not keep to them
):
    "Halve, save, and write the manifest"
    found = find_checkpoint(run)
    model = MeloFormer.load(found)
    if no_attributes: model.cfg = replace(model.cfg, attributes=False)
    model.save(out, HID.load(found), {k: v.half() for k,v in model.state_dict().items()})
    for o in map(found.joinpath, BRIDGE_FILES):
        if o.is_file(): shutil.copy(o, out)
    write_manifest(out)
    print(f'{found} -> {out}, {(Path(out)/"model.safetensors").stat().st_size/1e6:.1f} MB')
