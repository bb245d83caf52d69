"""Live: how long bars take to think beside how long they last, time to the first bar and to an answer, late messages and under-runs

python benchmarks/live.py [RUN] [--seconds 30] [--bars 32] [--rounds 4]

The model thinks on one thread, in a process of its own, and messages go to a list instead of a port. A piano, a bass and drums, 4/4, 120 quarter notes a minute. RUN (default: the model that comes along) is timed as it is, and again
with its weights within a model of the size `small`, whose other weights are zero: that writes the very same tokens at the cost of its size, so bars have as many notes as trained models write. Each with weights of four bytes and of one, and
with bars as the model likes and as `meloformer live` keeps them. Thinking is timed by the clock and in seconds of the processor, which other programs lengthen less. The first bar is counted from the question, when the model is loaded
and warm; an answer from the end of a call of one bar. Sizes measured before are kept, each with its commit."""
import os
os.environ['OMP_NUM_THREADS'] = '1'
import tempfile, threading, time
import mido, numpy as np, psutil, torch
from fastcore.script import Param, call_parse
from report import earlier, head, report
from meloformer.apps.live import AHEAD, SHARE, STOP, Inbox, Performer, RecordedPort, Thinker, bounded, realtime_priority, room
from meloformer.net.checkpoint import find_checkpoint
from meloformer.net.model import HEAD_DIM, MeloFormer, config
from meloformer.tokens.hid import HID
from meloformer.writing.constraints import TokenRequest, parse_instruments

BAND = TokenRequest(tempo=120, meter=(4,4), programs=parse_instruments('piano, bass, drums'))

def within(model, size):
    "A model of another size that writes the same: its weights in a corner, zeros elsewhere"
    c,big = model.cfg,MeloFormer(config(size, mask=model.cfg.mask)).eval()
    own,new,C = model.state_dict(),{k: torch.zeros_like(v) for k,v in big.state_dict().items()},big.cfg
    narrow,each = (c.width/C.width)**.5,C.heads//C.kv_heads # a norm over zeros, too; queries that share a key
    heads = [*range(0, each*c.heads, each), *range(C.heads, C.heads+c.kv_heads), *range(C.heads+C.kv_heads, C.heads+C.kv_heads+c.kv_heads)]
    rows = torch.cat([torch.arange(HEAD_DIM)+HEAD_DIM*h for h in heads])
    for k,v in own.items():
        if k.startswith('outline.'): continue # nothing is told
        part = k.rpartition('blocks.')[2].partition('.')[2]
        if 'norm' in k: new[k][:len(v)] = v*narrow
        elif part=='attention.qkv.weight': new[k][rows, :c.width] = v
        elif part=='attention.out.weight': new[k][:c.width, rows[:v.shape[1]]] = v
        elif part=='up.weight': new[k].unflatten(0, (2, -1))[:, :c.hidden, :c.width] = v.unflatten(0, (2, -1))
        elif part=='down.weight': new[k][:c.width, :c.hidden] = v
        else: new[k][..., :c.width] = v
    big.load_state_dict(new)
    return big

def first_bar(thinker, inbox, request, seed):
    "Seconds from a question to its first bar"
    start = inbox.now()
    thinker.start(request, seed, True)
    thinker.more()
    inbox.get(start+600)
    return inbox.now()-start

def shares(thinker, inbox, request, bars, seed=0):
    "Thinking time of each bar over its duration, by the clock and of the processor"
    thinker.start(request, seed, True)
    of,res,notes = psutil.Process(thinker.process.pid),[],[]
    for _ in range(bars):
        cpu = of.cpu_times()
        thinker.more()
        t = inbox.get(inbox.now()+600)
        used,lasts = of.cpu_times(),t.score.bars()[0]['length']/t.score.tpq*.5
        res.append((t.seconds/lasts, (used.user+used.system-cpu.user-cpu.system)/lasts))
        notes.append(len(t.score.notes))
    named = lambda x: dict(median=round(float(np.median(x)), 3), p95=round(float(np.quantile(x, .95)), 3), most=round(float(max(x)), 3))
    return dict(bars=bars, clock=named([a for a,_ in res]), processor=named([b for _,b in res]), notes=named(notes))

def performance(thinker, inbox, request, seconds, seed=1):
    "What happened in so many seconds from the first note on, and how long the stop took"
    tape,asked = RecordedPort(inbox),[]
    def stop():
        while not tape.sent: time.sleep(.05)
        time.sleep(seconds)
        asked.append(inbox.now())
        inbox.put(STOP)
    thinker.start(request, seed, forever=True)
    threading.Thread(target=stop, daemon=True).start()
    p = Performer(tape, inbox, tempo=120)
    with realtime_priority() as first: log = p.perform(p.play, thinker, most=AHEAD)
    late,busy = 1000*np.array([d for _,d in log.delays]),[s for _,_,s,_ in log.bars]
    return dict(seconds=seconds, realtime_priority=first, bars=len(log.bars), notes=log.notes, messages=log.sent, late_by_more_than_10_ms=log.late, dropped=log.dropped,
        ms_late=dict(median=round(float(np.median(late)), 2), p99=round(float(np.quantile(late, .99)), 2), most=round(1000*log.worst, 2)),
        underruns=log.underruns, beats_waited=log.waited, ahead=log.ahead, ms_to_stop=round(1000*(tape.sent[-1][0]-asked[0]), 2), thinking_share=round(sum(busy)/(log.end-log.start), 3))

def answers(thinker, inbox, hid, request, rounds):
    "Bars from the end of a call of one bar to its answer, of somebody who plays four quarter notes whenever it is listened to"
    p = Performer(RecordedPort(inbox), inbox, tempo=120)
    def say(words):
        if not words.startswith('listening'): return
        for i in range(4): # it begins in half a second at most
            for more,kind in ((.1, 'note_on'), (.4, 'note_off')): threading.Timer(.5*i+more, lambda i=i, kind=kind: inbox.put((inbox.now(), mido.Message(kind, note=60+i)))).start()
    p.perform(p.converse, thinker, hid, request, 1, rounds, say=say)
    waited = [w*.5/2 for *_,w in p.log.bars]
    return dict(rounds=len(waited), bars=[round(o, 2) for o in waited], most=max(waited))

def timed(ckpt, name, weights, seconds, bars, rounds):
    "Figures of one model"
    inbox = Inbox()
    start = inbox.now()
    thinker = Thinker(ckpt, inbox, beforehand=(BAND, weights))
    try:
        loaded,tokens = inbox.now()-start,room(BAND, thinker.token)
        kept = bounded(BAND, tokens)
        begin = [first_bar(thinker, inbox, kept, s) for s in range(5)]
        return dict(size=name, weights=weights, commit=head(), load_average=round(os.getloadavg()[0], 1), seconds_to_load=round(loaded, 2),
            ms_a_token=round(1000*thinker.token, 1), tokens_that_fit=tokens, seconds_to_first_bar=dict(median=round(float(np.median(begin)), 3), most=round(max(begin), 3)),
            as_it_likes=shares(thinker, inbox, BAND, bars), kept_in_time=shares(thinker, inbox, kept, bars),
            performance=performance(thinker, inbox, kept, seconds), answer=answers(thinker, inbox, HID.load(ckpt), kept, rounds))
    finally: thinker.close()

@call_parse
def main(
    run: Param('A run of meloformer train, or a checkpoint (default: the model that comes along)', str, opt=False, nargs='?') = None,
    seconds: float = 30., # Of each performance
    bars: int = 32,       # Whose thinking is timed
    rounds: int = 4       # Calls that are answered
):
    "Time live music"
    ckpt = find_checkpoint(run)
    model,which = MeloFormer.load(ckpt),lambda r: (r['size'], r.get('weights'))
    with tempfile.TemporaryDirectory() as tmp:
        within(model, 'small').save(tmp, HID.load(ckpt))
        for path,weights in ((tmp, 'int8'), (tmp, 'float32'), (ckpt, 'float32'), (ckpt, 'int8')): # each is kept as soon as it is measured
            size = f'{sum(p.numel() for p in MeloFormer.load(path).parameters())/1e6:.1f} M parameters'
            row = timed(path, size, weights, seconds, bars, rounds)
            rows = sorted([row, *(r for r in earlier('live') if which(r)!=which(row))], key=lambda r: float(r['size'].split()[0]))
            report('live', ('mido','psutil'), command=f'python benchmarks/live.py --seconds {seconds:g} --bars {bars} --rounds {rounds}', share=SHARE, rows=rows)
