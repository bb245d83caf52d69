"""What it costs to write from another program: the same filling asked for in Python, over HTTP, over OSC, and by a file in a watched folder

python benchmarks/ways.py [--rounds 5]

Each of `meloformer serve`, `osc` and `watch` is a process of its own with the model that comes along, one thread, and waits while the others write. Four bars of a song of four players are written anew (bars 5 to 8), with the same seed everywhere: the answers have to be the
same notes. All ways are asked in turn, in each round with another seed; from the question to the whole answer, by the clock, and how much more than in Python (median of the differences of the rounds)."""
import os, subprocess, sys, tempfile, time
os.environ['OMP_NUM_THREADS'] = '1'
from pathlib import Path
from statistics import median
import torch
from fastcore.script import call_parse
from report import report
from meloformer import MeloFormer, Score
sys.path.append(str(Path(__file__).parent.parent/'clients'))
from meloformer_client import Server
from meloformer_osc import Osc

def started(*command):
    "A command as a process, and the first line that it says"
    p = subprocess.Popen([sys.executable, '-m', 'meloformer.apps.cli', *map(str, command)], stdout=subprocess.PIPE, text=True)
    return p,p.stdout.readline()

def by_folder(folder, midi, fill, seed):
    "Drop a file, and wait for its answer"
    name = f'song; fill={fill}; seed={seed}'
    (folder/'part').write_bytes(midi)
    (folder/'part').rename(folder/f'{name}.mid') # whole when it is seen
    answer = folder/f'{name}.answer.mid'
    while not answer.exists(): time.sleep(.005)
    return answer.read_bytes()

def notes(midi): return sorted(zip(*(Score.from_bytes(midi).notes[o].tolist() for o in ('onset','pitch','duration','velocity'))))

@call_parse
def main(
    rounds: int = 5
):
    "Time four ways to the same bars"
    torch.set_num_threads(1)
    model = MeloFormer.from_pretrained()
    song = model.generate(chords='Am F C G', instruments='piano, bass, drums, violin', meter='4/4', bars=12, seed=1)
    midi,fill,ps = song.to_bytes(),'5-8',[]
    with tempfile.TemporaryDirectory() as own, tempfile.TemporaryDirectory() as tmp:
        (file := Path(own)/'song.mid').write_bytes(midi)
        try:
            web,osc,watch = (started(*o) for o in (('serve','--port',0), ('osc','--port',0), ('watch',tmp)))
            ps = [web[0], osc[0], watch[0]]
            server,sender = Server(web[1].split()[-1]),Osc(int(osc[1].split()[-1]))
            ways = dict(python=lambda seed: model.infill(file, fill, seed=seed).to_bytes(), http=lambda seed: server.infill(midi, fill, seed=seed)[0],
                        osc=lambda seed: sender.write(midi, id=seed, mask=(5, 8), seed=seed)[0], folder=lambda seed: by_folder(Path(tmp), midi, fill, seed))
            took = {k: [] for k in ways}
            for seed in range(rounds+1): # the first is warm-up
                got = {}
                for k,ask in ways.items():
                    start = time.perf_counter()
                    got[k] = notes(ask(seed))
                    if seed: took[k].append(time.perf_counter()-start)
                assert len({tuple(o) for o in got.values()})==1, {k: len(o) for k,o in got.items()}
        finally:
            for p in ps: p.terminate(); p.wait()
    rows = [dict(way=k, seconds=round(median(v), 3), more_than_python=round(median(b-a for a,b in zip(took['python'], v)), 3)) for k,v in took.items()]
    report('ways', ('fastapi','uvicorn','python-osc'), command=f'python benchmarks/ways.py --rounds {rounds}', rounds=rounds, bytes_of_midi=len(midi), load_average=round(os.getloadavg()[0], 1), rows=rows)
