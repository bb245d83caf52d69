"""Time of `make demo` and `make test` in a fresh clone: environment, downloads and all

python benchmarks/from_nothing.py [--keep FOLDER]

What has not been committed is not in the clone."""
import os, subprocess, sys, tempfile, time
from pathlib import Path
from fastcore.script import call_parse
from report import report

@call_parse
def main(
    keep: str = None # Clone to this folder and leave it there
):
    "Clone, then run both"
    root = Path(__file__).resolve().parent.parent
    with tempfile.TemporaryDirectory() as tmp:
        clone,seconds = Path(keep or tmp)/'meloformer',{}
        subprocess.run(['git', 'clone', '-q', root, clone], check=True)
        env = {k: v for k,v in os.environ.items() if k not in ('VIRTUAL_ENV','PYTHONPATH','OMP_NUM_THREADS','MAKEFLAGS')}
        for target in ('demo', 'test'):
            start = time.perf_counter()
            if status := subprocess.run(['make', target], cwd=clone, env=env, stdin=subprocess.DEVNULL).returncode: sys.exit(f'make {target} ended with status {status}')
            seconds[target] = round(time.perf_counter()-start)
    report('from_nothing', command='python benchmarks/from_nothing.py', make_demo_seconds=seconds['demo'], make_test_seconds=seconds['test'])
