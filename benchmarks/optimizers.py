"""AdamW or Muon: bits a note on the validation split after the same tokens, three seeds each

python benchmarks/optimizers.py CORPUS [--steps 400] [--size tiny] [--together 1]

Every run is `meloformer train`; runs that are finished are kept in the folder `runs/optimizers`, so the benchmark can be stopped and gone on with."""
import json, os, subprocess, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean
from fastcore.script import call_parse
from report import report

@call_parse
def main(
    corpus: str, # Folder made by meloformer prepare
    steps: int = 400,
    size: str = 'tiny',
    max_seq_len: int = 2048,
    lrs: str = '0.001 0.002 0.004', # Peak learning rates
    seeds: int = 3,
    out: str = 'runs/optimizers',
    together: int = 1 # Runs at a time, a thread each
):
    "Train with both optimizers"
    def run(kind, lr, seed):
        to = Path(out)/f'{size}-{max_seq_len}-{steps}-{kind}-{lr}-{seed}'
        flags = dict(data=corpus, out=to, model_size=size, max_seq_len=max_seq_len, batch_size=1, gradient_accumulation_steps=1, num_workers=0, steps=steps, optimizer=kind, lr=lr, seed=seed, val_every=max(1, steps//4), save_every=steps, sample_bars=0)
        subprocess.run([sys.executable, '-m', 'meloformer.apps.cli', 'train', *(str(x) for k,v in flags.items() for x in (f'--{k}', v))], check=True, stdout=subprocess.DEVNULL, env=os.environ|dict(OMP_NUM_THREADS='1'))
        rows = [json.loads(o) for o in (to/'log.jsonl').read_text().splitlines()]
        res = dict(optimizer=kind, lr=lr, seed=seed, bits={o['step']: round(o['val_bits'], 3) for o in rows if 'val_bits' in o}, seconds=round(rows[-1].get('seconds', rows[-2].get('seconds', 0))))
        print(res, flush=True)
        return res
    with ThreadPoolExecutor(together) as pool:
        first = list(pool.map(lambda o: run(*o), [(k, float(lr), 0) for lr in lrs.split() for k in ('adamw','muon')]))
        best = {k: min((o for o in first if o['optimizer']==k), key=lambda o: o['bits'][steps])['lr'] for k in ('adamw','muon')}
        rest = list(pool.map(lambda o: run(*o), [(k, best[k], s) for s in range(1, seeds) for k in ('adamw','muon')]))
    each = {k: [o['bits'][steps] for o in first+rest if o['optimizer']==k and o['lr']==best[k]] for k in best}
    report('optimizers', command='python benchmarks/optimizers.py CORPUS', steps=steps, size=size, max_seq_len=max_seq_len, rows=first+rest, best_lr=best, bits=each, mean_bits={k: round(mean(v), 3) for k,v in each.items()})
