"""The server with twenty clients at once: how long they wait, what is gained by writing side by side, and whether memory grows

python benchmarks/serve.py [RUN] [--clients 20] [--rounds 5] [--bars 4]

The server is a process of its own on this machine, with one thread; the clients are connections of one other process. Each round all clients ask at the same time, for pieces of so many bars, each with another seed."""
import asyncio, os, subprocess, sys
os.environ['OMP_NUM_THREADS'] = '1'
from pathlib import Path
from time import perf_counter
import httpx, numpy as np
from fastcore.script import Param, call_parse
from report import report

def memory(pid): return round(int(next(l for l in Path(f'/proc/{pid}/status').read_text().splitlines() if l.startswith('VmRSS')).split()[1])/1024)

async def ask_at_once(url, n, bars, seed):
    "Seconds until each of `n` clients had its answer"
    async with httpx.AsyncClient(base_url=url, timeout=None, limits=httpx.Limits(max_connections=n)) as c:
        async def one(i):
            start = perf_counter()
            r = await c.post('/v1/generate', json=dict(bars=bars, chords='Am F C G', instruments='piano, bass, drums', seed=seed+i))
            assert r.status_code==200 and len(r.json()['takes'])==1
            return perf_counter()-start
        return await asyncio.gather(*map(one, range(n)))

def serving(model, together, clients, rounds, bars):
    "Figures of a server that writes so many pieces side by side"
    p = subprocess.Popen([sys.executable, '-m', 'meloformer.apps.cli', 'serve', *([model] if model else []), '--port', '0', '--together', str(together)], stdout=subprocess.PIPE, text=True)
    try:
        url = p.stdout.readline().split()[-1]
        asyncio.run(ask_at_once(url, 1, bars, 999))
        waits,took,mb = [],[],[memory(p.pid)]
        for k in range(rounds):
            start = perf_counter()
            waits += asyncio.run(ask_at_once(url, clients, bars, 100*k))
            took.append(perf_counter()-start)
            mb.append(memory(p.pid))
        return dict(together=together, answers=len(waits), pieces_per_second=round(clients*rounds/sum(took), 2), seconds_per_round=[round(o, 2) for o in took],
            seconds_to_answer=dict(median=round(float(np.median(waits)), 2), p95=round(float(np.quantile(waits, .95)), 2), most=round(max(waits), 2)), mb_before_and_after_each_round=mb)
    finally: p.terminate(); p.wait()

@call_parse
def main(
    model: Param('A run or a checkpoint (default: the model that comes along)', str, opt=False, nargs='?') = None,
    clients: int = 20, # That ask at once
    rounds: int = 5,
    bars: int = 4      # Of each piece
):
    "Time a server with many clients"
    rows = [serving(model, n, clients, rounds, bars) for n in (1, 8)]
    report('serve', ('fastapi','uvicorn'), command=f'python benchmarks/serve.py --clients {clients} --rounds {rounds} --bars {bars}', clients=clients, bars=bars, load_average=round(os.getloadavg()[0], 1), rows=rows)
