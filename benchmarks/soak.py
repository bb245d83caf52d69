"""Do memory, open files, threads, processes and temporary files stay as they are over thousands of files, pieces and steps?

    python benchmarks/soak.py [--files 20000] [--pieces 500] [--steps 2000] [--most 2] [--seeds MIDI_FOLDER] [--parts "prepare generate train muon"]

Four parts, each in a process of its own: `prepare` on files with wrong bits, cut short, or with chunks in other places; pieces of two bars, with their pictures, by the model that comes along; steps of a `tiny` model on windows of 512 places,
with AdamW, and with Muon.
Resident memory, children included, is looked at up to 200 times. The first fifth is warm-up. Three figures must stay below `most` per cent: the line fitted through the rest, the median of the last fifth beside that of the second, and
the highest of the last three fifths beside the highest of the first two. What is open is counted after a small run of the same kind, and after the large one. Status 1 and a sentence where a bound is broken.
Rows of other parts stay in the results file, each with its commit and its machine."""
import contextlib, gc, json, os, random, subprocess, sys, tempfile, time
from functools import partial
from pathlib import Path
from unittest.mock import patch
import numpy as np, psutil
from fastcore.script import call_parse
from meloformer.music.score import NOTE, METER, TEMPO, Score, Track
# PyTorch is imported by those parts alone that need it: its size would hide what the others leak

# What is read
def invented(seed, bars=24):
    "A piece for two players and drums that `prepare` keeps"
    rng,notes = random.Random(seed),[]
    for beat in range(4*bars):
        notes += [(480*beat+240*i, rng.choice([120, 240]), rng.choice([60, 62, 64, 65, 67, 69, 71, 72, 74]), rng.randrange(50, 110), 0) for i in range(2) if rng.random()<.8]
        notes += [(480*beat, 480, rng.choice([36, 41, 43, 45]), 80, 1), (480*beat, 120, rng.choice([36, 38, 42]), 90, 2)]
    return Score(480, np.array(notes, NOTE), [Track(0, False), Track(33, False), Track(0, True)], np.array([(0, 120.)], TEMPO), np.array([(0, 4, 4)], METER))

def mutated(rng, data):
    "Wrong bits, a cut, tracks in another order, or two parts that changed places"
    b,how = bytearray(data),rng.randrange(4)
    at = sorted(rng.randrange(len(b)) for _ in range(3))
    if how==0:
        for _ in range(rng.choice([1, 3, 10])): b[rng.randrange(len(b))] ^= 1<<rng.randrange(8)
    elif how==1: del b[at[0]:]
    elif how==2:
        head,*tracks = bytes(b).split(b'MTrk')
        rng.shuffle(tracks)
        b = b'MTrk'.join([head, *tracks])
    else: b = b[:at[0]]+b[at[1]:at[2]]+b[at[0]:at[1]]+b[at[2]:]
    return bytes(b)

def source(seeds):
    "Bytes of the files to begin with"
    if not seeds: return [invented(i).to_bytes() for i in range(12)]
    from meloformer.data.corpus import find_midi
    return [Path(o).read_bytes() for o in find_midi(seeds)]

# What is done: each gives `run(n, out, tick)`, which calls `tick` after each file, piece or step
def prepare(n, where, seeds):
    from meloformer.data.corpus import build
    some,rng,folder = source(seeds),random.Random(0),where/'midi'
    folder.mkdir()
    for i in range(n): (folder/f'{i:06}.mid').write_bytes(some[i] if i<len(some) else mutated(rng, rng.choice(some)))
    def over(results, tick):
        for r in results:
            yield r
            tick()
    def run(k, out, tick):
        (where/'list.txt').write_text('\n'.join(str(folder/f'{i:06}.mid') for i in range(k)))
        with patch('meloformer.data.corpus.tqdm', lambda results, **_: over(results, tick)): build(where/'list.txt', out, workers=1, val_share=0.)
    return run

def generate(n, where, seeds):
    import torch
    from meloformer.net.model import MeloFormer
    import meloformer.writing.request # for `MeloFormer.generate`
    torch.set_num_threads(1)
    model = MeloFormer.from_pretrained()
    def run(k, out, tick):
        out.mkdir()
        for seed in range(k):
            score = model.generate(chords='Am F C G', instruments='piano, bass, drums', bars=2, seed=seed)
            score.write(out/'piece.mid')
            score.save_png(out/'piece.png')
            tick()
    return run

def train(n, where, seeds, optimizer='adamw'):
    import torch
    from meloformer.data.corpus import build
    from meloformer.training.train import Tracer, train
    torch.set_num_threads(1)
    (where/'midi').mkdir()
    for i,o in enumerate(source(seeds)): (where/f'midi/{i:06}.mid').write_bytes(o)
    build(where/'midi', where/'data', val_share=.1, progress=False)
    leave = Tracer.leave
    def run(k, out, tick):
        def left(self, step):
            leave(self, step)
            tick()
        with patch.object(Tracer, 'leave', left):
            train(data=str(where/'data'), out=str(out), model_size='tiny', max_seq_len=512, batch_size=1, gradient_accumulation_steps=1, num_workers=1, at_once=True, steps=k, optimizer=optimizer, lr=1e-4, val_every=50, val_windows=1, save_every=50,
                sample_bars=0, log_every=10, device='cpu')
    return run

PARTS = dict(prepare=prepare, generate=generate, train=train, muon=partial(train, optimizer='muon'))

# What is seen
def resident():
    "Megabytes of this process and all below it"
    own,res = psutil.Process(),0
    for p in [own, *own.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess): res += p.memory_info().rss # it may end while it is looked at
    return res/1e6

def counts(where):
    gc.collect()
    p = psutil.Process()
    left = [*(where/'tmp').rglob('*'), *where.glob('*.part')]
    return dict(files_open=p.num_fds(), threads=p.num_threads(), processes=len(p.children(recursive=True)), temporary_files=len(left))

def growth(mb):
    "Per cent by which a curve of memory grows after its first fifth: along a line, at its end, at its highest"
    a = np.array(mb, float)
    w = max(1, len(a)//5)
    level,rest = np.median(a[w:2*w]),a[w:]
    line = np.polyfit(np.arange(len(rest)), rest, 1)[0]*(len(rest)-1)/level
    return {k: round(100*float(v), 2) for k,v in dict(line=line, end=np.median(a[-w:])/level-1, highest=a[2*w:].max()/a[:2*w].max()-1).items()}

def faults(row, most):
    "What is wrong with a part, in sentences"
    wrong = [f"{row['part']}: resident memory grew by {v} % ({k}) over {row['n']:,} {row['of']}, more than {most:g} %" for k,v in row['growth_percent'].items() if v>most]
    return wrong+[f"{row['part']}: {k.replace('_', ' ')} were {a} before and {row['after'][k]} after {row['n']:,} {row['of']}" for k,a in row['before'].items() if row['after'][k]>a]

OF = dict(prepare='files', generate='pieces', train='steps', muon='steps')

def soaked(part, n, seeds):
    "The row of a part, which runs in this process"
    with tempfile.TemporaryDirectory() as d:
        where,mb,done = Path(d),[],0
        (where/'tmp').mkdir()
        os.environ['TMPDIR'],tempfile.tempdir = str(where/'tmp'),None
        def tick():
            nonlocal done
            done += 1
            if done%max(1, n//200)==0: mb.append(round(resident(), 2))
        with contextlib.redirect_stdout(sys.stderr):
            run = PARTS[part](n, where, seeds)
            run(min(n, max(20 if part=='prepare' else 2, n//100)), where/'first', lambda: None)
            before,start = counts(where),time.perf_counter()
            run(n, where/'out', tick)
            seconds,after = time.perf_counter()-start,counts(where)
    return dict(part=part, n=n, of=OF[part], seconds=round(seconds), growth_percent=growth(mb), before=before, after=after, resident_mb=mb)

def in_process(part, n, seeds):
    "The same in a process of its own"
    args = [sys.executable, __file__, '--inside', '--parts', part, f'--{OF[part]}', str(n), *(['--seeds', seeds] if seeds else [])]
    p = subprocess.run(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if p.returncode: sys.exit(f'{part} ended with status {p.returncode}: {p.stderr[-2000:]}')
    return json.loads(p.stdout)

@call_parse
def main(
    files: int = 20_000, # Of prepare
    pieces: int = 500,
    steps: int = 2_000,
    most: float = 2.,    # Per cent by which memory may grow
    seeds: str = None,   # Folder of MIDI files to mutate and to learn from (default: a few are made)
    parts: str = 'prepare generate train muon', # Which of them
    inside: bool = False # Here, one part; its row is printed, and no result is kept
):
    "Run for long, and see what grows"
    n,rows = dict(prepare=files, generate=pieces, train=steps, muon=steps),[]
    if wrong := set(parts.split())-n.keys(): sys.exit(f"--parts is of {', '.join(n)}, not {', '.join(wrong)}")
    if min(n.values())<20: sys.exit('at least 20 files, pieces and steps are needed to tell a line from noise')
    if inside: return print(json.dumps(soaked(parts, n[parts], seeds)))
    from report import earlier, head, processor, report
    for k in parts.split():
        rows.append(in_process(k, n[k], seeds)|dict(commit=head(), device=processor(), most_percent=most, seeds=Path(seeds).name if seeds else 'invented'))
        print({a: b for a,b in rows[-1].items() if a!='resident_mb'}, flush=True)
        kept = {r['part']: r for r in [*earlier('soak'), *rows]}
        report('soak', packages=('psutil',), command='python benchmarks/soak.py', rows=[kept[o] for o in n if o in kept])
    if wrong := [w for r in rows for w in faults(r, most)]: sys.exit('\n'.join(wrong))
