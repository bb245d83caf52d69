"""Live: time to the first bar, thinking time of a bar beside its duration, and late messages with a real clock

python benchmarks/live.py RUN [--seconds 60] [--bars 64]

The model thinks on one thread, in a process of its own, and messages go to a list instead of a port. 120 quarter notes a minute. The
first bar is counted from the question, when the model is loaded. Whatever else the machine does shows in the figures. Sizes measured before are kept, each with its commit."""
import os
os.environ['OMP_NUM_THREADS'] = '1'
import threading
import numpy as np
from fastcore.script import call_parse
from report import earlier, head, report
from meloformer.writing.constraints import TokenRequest
from meloformer.apps.live import STOP, Inbox, Performer, RecordedPort, Thinker, realtime_priority
from meloformer.net.model import MeloFormer
from meloformer.net.checkpoint import find_checkpoint

def first_bar(thinker, inbox, seed):
    "Seconds from a question to its first bar"
    start = inbox.now()
    thinker.start(TokenRequest(tempo=120), seed)
    thinker.more()
    inbox.get(start+600)
    return inbox.now()-start

def shares(thinker, inbox, bars, seed=0):
    "Thinking time of each bar over its duration"
    thinker.start(TokenRequest(bars=bars, tempo=120), seed)
    res = []
    for _ in range(bars):
        thinker.more()
        t = inbox.get(inbox.now()+600)
        res.append(t.seconds/(t.score.bars()[0]['length']/t.score.tpq*.5))
    return res

def performance(thinker, inbox, seconds, seed=1):
    "What happened in so many seconds, and how long the stop took"
    tape,asked = RecordedPort(inbox),[]
    def stop():
        asked.append(inbox.now())
        inbox.put(STOP)
    thinker.start(TokenRequest(tempo=120), seed, forever=True)
    threading.Timer(seconds, stop).start()
    p = Performer(tape, inbox, tempo=120)
    with realtime_priority() as first: log = p.perform(p.play, thinker)
    return log,first,tape.sent[-1][0]-asked[0]

@call_parse
def main(
    run: str,            # A run of meloformer train, or a checkpoint
    seconds: float = 60., # Of the performance
    bars: int = 64       # Whose thinking is timed
):
    "Time live music"
    ckpt,inbox = find_checkpoint(run),Inbox()
    size = sum(p.numel() for p in MeloFormer.load(ckpt).parameters())
    start = inbox.now()
    thinker = Thinker(ckpt, inbox)
    try:
        loaded = inbox.now()-start
        begin = [first_bar(thinker, inbox, s) for s in range(10)]
        share = shares(thinker, inbox, bars)
        log,first,stopped = performance(thinker, inbox, seconds)
    finally: thinker.close()
    late,busy = 1000*np.array([d for _,d in log.delays]),[s for _,_,s,_ in log.bars]
    row = dict(size=f'{size/1e6:.1f} M parameters', commit=head(), load_average=round(os.getloadavg()[0], 1),
        seconds_to_load=round(loaded, 2), seconds_to_first_bar=dict(median=round(float(np.median(begin)), 3), most=round(max(begin), 3)),
        thinking_over_bar=dict(bars=bars, median=round(float(np.median(share)), 3), p95=round(float(np.quantile(share, .95)), 3), most=round(max(share), 3)),
        performance=dict(seconds=seconds, realtime_priority=first, bars=len(log.bars), notes=log.notes, messages=log.sent, late_by_more_than_10_ms=log.late, dropped=log.dropped,
            ms_late=dict(median=round(float(np.median(late)), 2), p99=round(float(np.quantile(late, .99)), 2), most=round(1000*log.worst, 2)),
            underruns=log.underruns, beats_waited=log.waited, ms_to_stop=round(1000*stopped, 2), thinking_share=round(sum(busy)/(log.end-log.start), 3)))
    report('live', ('mido',), command='python benchmarks/live.py RUN', rows=sorted([r for r in earlier('live') if r['size']!=row['size']]+[row], key=lambda r: float(r['size'].split()[0])))
