"Run notebooks as `nbdev_test` does, keeping the outputs"
import time
from execnb.nbio import read_nb, write_nb
from execnb.shell import CaptureShell
from fastcore.script import call_parse
from fastcore.xtras import working_directory
from nbdev.clean import _nbdev_clean
from nbdev.config import get_config
from nbdev.doclinks import nbglob
from nbdev.process import extract_directives
from pathlib import Path

def skip(cell, flags):
    "Would `nbdev_test` leave this cell alone?"
    if cell.cell_type != 'code' or 'nbdev_export'+'(' in cell.source: return True
    d = extract_directives(cell, remove=False)
    return d.get('eval:', [''])[0].lower() == 'false' or bool(flags & d.keys())

@call_parse
def main(
    path: str = None, # Notebook or folder (default: all)
    flags: str = ''   # Test flags to run that are normally skipped
):
    "Execute notebooks in place, skipping what the tests skip"
    cfg = get_config()
    off = set(cfg.tst_flags.split()) - set(flags.split())
    for f in sorted(nbglob(path, as_path=True)):
        f,t = Path(f).absolute(),time.time()
        nb = read_nb(f)
        for c in nb.cells:
            if c.cell_type=='code' and not skip(c, off): c.outputs = []
        with working_directory(f.parent): CaptureShell(f).run_all(nb, exc_stop=True, preproc=lambda c: skip(c, off))
        _nbdev_clean(nb)
        write_nb(nb, f)
        print(f'{f.name}: {time.time()-t:.1f}s')
