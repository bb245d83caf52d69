"On time with a clock that jumps and with a real one; stopped, broken or killed, no note is left sounding"
import json, os, signal, subprocess, sys, threading, time
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
import mido, numpy as np, pytest, torch
from conftest import slowness, within
from meloformer.apps.cli import command, flags_of, run
from meloformer.tokens.edit import bar_count, cut
from meloformer.writing.constraints import TokenRequest
from meloformer.tokens.grammar import random_piece
from meloformer.tokens.hid import HID
from meloformer.apps.live import LATE, STOP, Inbox, Performer, Reader, FakeClock, RecordedPort, Thinker, Thought, WHOLE, call_score, live
from meloformer.writing.request import GenerationRequest
from meloformer.net.model import Config, MeloFormer, randomize_weights
from meloformer.music.score import NOTE, Score, Track, columns

HID24 = HID()
here = Path(__file__).parent

def some_bars(seed, n=16):
    "Bars of the grammar: many instruments, many meters, many tempos"
    rng,res = np.random.default_rng(seed),[]
    while len(res) < n:
        piece = HID24.decode(random_piece(HID24, rng, bars=4, most=400))
        res += [cut(piece, i, i+1) for i in range(bar_count(piece))]
    return res[:n]

def plain(n=1): return Score(480, columns(NOTE, onset=120*np.arange(16), duration=120, pitch=50+np.arange(16), velocity=80, track=np.arange(16)%n), [Track(i) for i in range(n)])

def all_end(messages):
    "Each note-on has its note-off before the next, and no other is there"
    on = set()
    for m in messages:
        if m.type=='note_on': assert (m.channel, m.note) not in on; on.add((m.channel, m.note))
        elif m.type=='note_off': on.remove((m.channel, m.note))
    assert not on

def perform(bars, seconds, ahead=2, n=None, events=(), port=RecordedPort):
    inbox = FakeClock()
    tape = port(inbox)
    for at,what in events: inbox.put(what, at)
    p = Performer(tape, inbox)
    try: p.perform(p.play, Reader(bars, inbox, seconds), n or len(bars), ahead)
    finally: p.sent = tape.sent
    return p

@pytest.mark.parametrize('seed', range(6))
def test_on_time(seed):
    "Fast enough: each note at its tick after its bar line, bars without a gap, no under-run"
    bars = some_bars(seed)
    shortest = min(float(b.seconds(b.bars()[0]['length'])) for b in bars)
    p = perform(bars, .99*shortest)
    assert (p.log.late, p.log.underruns, p.log.dropped, p.log.waited) == (0, 0, 0, 0) and p.log.worst < 1e-9
    lines = [o[0] for o in p.log.bars]
    np.testing.assert_allclose(np.diff(lines), [o[1] for o in p.log.bars[:-1]])
    planned = sorted(l+float(b.seconds(t)) for l,b in zip(lines, bars) for t in b.notes['onset'])
    np.testing.assert_allclose([t for t,m in p.sent if m.type=='note_on'], planned, atol=1e-6)
    all_end([m for _,m in p.sent])

@pytest.mark.parametrize('seed', range(6))
def test_too_slow(seed):
    "Whatever the speed: exactly the bars that arrive after their line are under-runs, and what is waited is whole beats of the bar before"
    rng,bars = np.random.default_rng(seed),some_bars(seed)
    took = rng.uniform(0, 3, len(bars))*np.array([float(b.seconds(b.bars()[0]['length'])) for b in bars])
    arrived = {}
    class Noted(Reader):
        def more(self):
            super().more()
            arrived[self.n-1] = self.free
    inbox = FakeClock()
    tape = RecordedPort(inbox)
    p = Performer(tape, inbox)
    p.perform(p.play, Noted(bars, inbox, lambda i: float(took[i])), len(bars), 1)
    under = beats = 0
    line = p.log.bars[0][0]
    for i,(start,length,_,waited) in enumerate(p.log.bars):
        if arrived[i] > line:
            meter,tempo = bars[i-1].bars()[0],bars[i-1].tempos[0]['bpm']
            beat = 240/tempo/meter['denominator']
            n = int(np.ceil((arrived[i]-line)/beat))
            under,beats,line = under+1,beats+n,line+n*beat
            assert waited == n
        assert abs(start-line) < 1e-6 and arrived[i] <= start+1e-9
        line = start+length
    assert (p.log.underruns, p.log.waited, p.log.late) == (under, beats, 0) and under
    all_end([m for _,m in tape.sent])

@pytest.mark.parametrize('at', [0., .3, 1.1, 2.017, 3.3])
def test_stopped(at):
    p = perform([plain(3)], .5, n=100, events=[(at, STOP)])
    assert all(t <= at for t,_ in p.sent)
    all_end([m for _,m in p.sent])
    if at > 1.5: assert {m.channel for _,m in p.sent if m.type=='control_change' and m.control==123} == {0, 1, 2}

def test_thinker_fails():
    inbox = FakeClock()
    tape = RecordedPort(inbox)
    inbox.put(ValueError('out of ideas'), 2.1)
    p = Performer(tape, inbox)
    with pytest.raises(ValueError, match='out of ideas'): p.perform(p.play, Reader([plain()], inbox, .5), 100)
    assert tape.sent[-1][0] == 2.1 and tape.sent[-1][1].control == 123
    all_end([m for _,m in tape.sent])

def test_interrupted():
    "Ctrl-C, where nobody took care of it"
    class Port(RecordedPort):
        def send(self, m):
            super().send(m)
            if len(self.sent)==21: raise KeyboardInterrupt
    inbox = FakeClock()
    tape = Port(inbox)
    p = Performer(tape, inbox)
    with pytest.raises(KeyboardInterrupt): p.perform(p.play, Reader([plain()], inbox, .5), 100)
    on = {(m.channel, m.note) for _,m in tape.sent if m.type=='note_on'}
    assert on <= {(m.channel, m.note) for _,m in tape.sent if m.type=='note_off'} and tape.sent[-1][1].control == 123

def test_asleep():
    "The machine slept for two bars: no burst of old notes, and the music goes on at a bar line that is yet to come"
    class Port(RecordedPort):
        slept = False
        def send(self, m):
            if self.inbox.time > 3 and not self.slept: self.inbox.time,self.slept = self.inbox.time+4.3,True
            super().send(m)
    p = perform([plain()], .5, n=10, port=Port)
    times = [t for t,m in p.sent if m.type=='note_on']
    assert p.log.dropped > 10 and p.log.late and p.log.notes+p.log.dropped == 160
    assert np.unique(times, return_counts=True)[1].max() <= 2
    all_end([m for _,m in p.sent])

def test_seventeen_players():
    p = perform([plain(17), plain(3)], .5, n=4)
    assert p.log.shared == 4 and len({m.channel for _,m in p.sent}) == 15 and 9 not in {m.channel for _,m in p.sent}
    all_end([m for _,m in p.sent])

def test_real_clock():
    "Eight bars of a second and stopped by another thread; how late depends on the machine, so the bounds are wide"
    inbox = Inbox()
    tape,fast = RecordedPort(inbox),plain()
    fast.tempos['bpm'] = 240
    class Now:
        def more(self): inbox.put(Thought(0, fast, 0.))
    stopped = []
    def stop():
        stopped.append(inbox.now())
        inbox.put(STOP)
    threading.Timer(2.6, stop).start()
    p = Performer(tape, inbox)
    log = p.perform(p.play, Now())
    assert 30 < log.notes < 50 and log.dropped == 0 and np.median([late for _,late in log.delays]) < LATE
    assert 0 <= tape.sent[-1][0]-stopped[0] < .05*slowness()
    all_end([m for _,m in tape.sent])

def test_call():
    "What is played twice on one key, left sounding, or outside the call"
    on,off = (lambda n: mido.Message('note_on', note=n)),(lambda n: mido.Message('note_off', note=n))
    s = call_score([(0., on(60)), (9., on(61)), (9.5, off(61)), (10., on(62)), (11., on(62)), (13.99, on(64)), (20., on(65))], 10., 14., 120)
    assert s.quantized().notes[['onset','pitch','duration']].tolist() == [(0, 62, 384), (384, 62, 1152)]
    assert len(call_score([], 10., 14., 120).notes) == 0

@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp('model')/'m'
    torch.manual_seed(0)
    randomize_weights(MeloFormer(Config(width=64, layers=2, heads=1, kv_heads=1)), .02).save(path, HID24)
    return path

def rows(path): return [json.loads(o) for o in path.read_text().splitlines()] if path.exists() else []

@pytest.fixture
def sent(tmp_path, monkeypatch):
    "A MIDI system that writes down what is sent; at the end no note sounds"
    monkeypatch.setenv('FAKE_MIDI_SENT', str(tmp_path/'sent'))
    monkeypatch.setenv('FAKE_MIDI_PLAYED', json.dumps([(.5*i, 60+i%12) for i in range(2000)]))
    monkeypatch.setenv('MIDO_BACKEND', 'fake_midi')
    monkeypatch.syspath_prepend(here)
    mido.set_backend('fake_midi')
    yield tmp_path/'sent'
    mido.set_backend('mido.backends.rtmidi')
    all_end([mido.Message(kind, channel=c, note=n) for _,kind,c,n in rows(tmp_path/'sent') if n is not None])

SHORT = ['--instruments', 'flute', '--top_k', '5', '--tempo', '400', '--chords', 'C G']

def after(n, path, do):
    "Do something when so many messages have been sent"
    def watch():
        while len(rows(path)) < n: time.sleep(.02)
        do()
    threading.Thread(target=watch, daemon=True).start()

def test_command(checkpoint, tmp_path, sent, capsys):
    tmp_path /= os.fsdecode(b'b\xff') # a folder that is made, and whose name is no text
    assert run('live', [str(checkpoint), '--bars', '3', '--out', f'{tmp_path}/a.mid', '--picture', f'{tmp_path}/a.png', *SHORT]) == 0
    out,score = capsys.readouterr().out,Score.read(tmp_path/'a.mid')
    assert '3 bars' in out and 'Playing to Synth' in out
    assert len(score.notes) == played(sent) and {t.program for t in score.tracks} == {73}
    assert (tmp_path/'a.png').read_bytes().startswith(b'\x89PNG')

def test_command_too_slow(checkpoint, tmp_path, sent, capsys, monkeypatch):
    "A model of which a bar has room for a single token: said before the music, with what would fit, and each player has one note a bar at most"
    class Slow(Thinker):
        def __init__(self, *args):
            super().__init__(*args)
            self.token = 60.
    monkeypatch.setattr('meloformer.apps.live.Thinker', Slow)
    assert run('live', [str(checkpoint), '--bars', '3', '--out', f'{tmp_path}/a.mid', *SHORT]) == 0
    words,_,rest = capsys.readouterr().out.partition('\n')
    assert words.startswith('the model is slow for 400') and 'what would fit: --tempo 28, a smaller model' in words and 'Playing to' in rest
    assert 1 <= len(Score.read(tmp_path/'a.mid').notes) <= 3
    assert run('live', [str(checkpoint), '--bars', '2', '--share', '0', *SHORT]) == 0

def played(sent): return sum(o[1]=='note_on' for o in rows(sent))

@pytest.mark.parametrize('full', [('a.wav',), ('a.wav','there'), 'all'])
def test_a_disk_that_fills(full, checkpoint, tmp_path, sent, capsys, monkeypatch):
    "What was played cannot be played again: where there is no room it is kept as MIDI, beside it or elsewhere, and one sentence says so"
    there,write = tmp_path/'there',Path.write_bytes
    def room(self, data):
        if full=='all' or self.name.startswith('a.wav') or self.parent.name in full: raise OSError(28, 'No space left on device', str(self))
        return write(self, data)
    monkeypatch.setattr(Path, 'write_bytes', room)
    monkeypatch.setenv('TMPDIR', str(tmp_path))
    monkeypatch.setattr('meloformer.apps.live.format_of', lambda _: None) # whether or not there is a synthesizer here
    monkeypatch.setattr('meloformer.music.formats.format_of', lambda _: SimpleNamespace(write=Score.to_bytes))
    assert run('live', [str(checkpoint), '--bars', '2', '--out', str(there/'a.wav'), *SHORT]) == 1
    err = capsys.readouterr().err
    assert 'a.wav: cannot be written (No space left on device)' in err and err.count('\n')==1
    kept = [*tmp_path.rglob('*.mid')]
    if full=='all': assert 'what was played is lost' in err and not kept
    else: assert f'what was played is kept as {kept[0]}\n' in err and kept[0].parent==(tmp_path if 'there' in full else there) and len(Score.read(kept[0]).notes)==played(sent)
    assert not [*tmp_path.rglob('*.part')]

def test_command_terminated(checkpoint, sent, capsys):
    before = signal.getsignal(signal.SIGTERM)
    after(8, sent, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert run('live', [str(checkpoint), *SHORT]) == 0
    assert 'under-runs' in capsys.readouterr().out and rows(sent)[-1][1]=='control_change'
    assert signal.getsignal(signal.SIGTERM) == before

def test_command_loses_its_model(checkpoint, tmp_path, sent, capsys, monkeypatch):
    "And keeps its music"
    class Doomed(Thinker):
        def __init__(self, *args):
            super().__init__(*args)
            after(8, sent, self.process.kill)
    monkeypatch.setattr('meloformer.apps.live.Thinker', Doomed)
    assert run('live', [str(checkpoint), '--out', str(tmp_path/'a.mid'), *SHORT]) == 1
    out,err = capsys.readouterr()
    assert "model's process has ended" in err and 'under-runs' in out and rows(sent)[-1][1]=='control_change' and len(Score.read(tmp_path/'a.mid').notes)

def test_command_answers(checkpoint, tmp_path, sent, capsys):
    assert run('live', [str(checkpoint), '--listen', 'Keys', '--call_bars', '1', '--bars', '2', '--out', f'{tmp_path}/a.mid', *SHORT]) == 0
    out = capsys.readouterr().out
    assert 'notes heard; answering' in out and '1 bars' in out
    assert {t.program for t in Score.read(tmp_path/'a.mid').tracks} == {0, 73}

def test_ctrl_c(checkpoint, sent):
    "As a terminal sends it: to all processes at once"
    env = os.environ | dict(PYTHONPATH=os.pathsep.join([str(here), str(here.parent), os.environ.get('PYTHONPATH', '')]))
    p = subprocess.Popen([sys.executable, '-m', 'meloformer.apps.cli', 'live', str(checkpoint), *SHORT], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while len(rows(sent)) < 8 and p.poll() is None: time.sleep(.05)
    at = time.time()
    os.killpg(p.pid, signal.SIGINT)
    out,err = p.communicate(timeout=1200)
    assert (p.returncode, err) == (0, '') and 'under-runs' in out
    assert rows(sent)[-1][1]=='control_change' and rows(sent)[-1][0]-at < .25*slowness() # a busy machine may take a while to deliver a signal

def test_ctrl_c_twice(checkpoint, sent, capsys, monkeypatch):
    "A model that does not load is waited for once"
    class Slow(Thinker):
        def __init__(self, *_):
            threading.Timer(.2, os.kill, (os.getpid(), signal.SIGINT)).start()
            threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGINT)).start()
            time.sleep(60)
    monkeypatch.setattr('meloformer.apps.live.Thinker', Slow)
    start = time.time()
    assert run('live', [str(checkpoint), *SHORT]) == 130 and within(5, start)
    assert 'stopped' in capsys.readouterr().err

def test_flags_are_those_of_generate(capsys):
    "No default is typed twice, and what needs a whole piece is no flag of live"
    ours,theirs = (flags_of(command(k), k) for k in ('live','generate'))
    assert {o.dest for o in theirs._actions}-{o.dest for o in ours._actions} == {*WHOLE, 'stems'}
    for o in {o.dest: o for o in theirs._actions}.keys() & {f.name for f in fields(GenerationRequest)}-{*WHOLE, 'bars'}:
        assert next(a.help for a in ours._actions if a.dest==o) == next(a.help for a in theirs._actions if a.dest==o)
    with pytest.raises(ValueError, match='--form is for whole pieces'): live(form='AABA')
    assert run('live', ['--rest', '3'])==1 and '--max_rest_bars' in capsys.readouterr().err

@pytest.mark.parametrize('args,words', [
    (['--out', '/proc/x.mid'], '/proc/x.mid: cannot be written'), (['--picture', '/dev/null/x.png'], 'give --picture another place'), (['--out', 'n'*300+'.mid'], 'give --out another place'), (['--out', '{folder}/a.mid'], 'is a folder'),
    (['--port', 'organ'], "no port is called 'organ'"), (['--listen', 'organ'], "no port is called 'organ'"), (['--ahead', '0'], '--ahead'), (['--share', '2'], '--share lies from 0 to 1'), (['--weights', 'int3'], '--weights is one of'),
    (['--instruments', ','.join(map(str, range(16)))], 'at most 15'), (['--listen', 'Keys', '--prompt', 'x.mid'], '--prompt'), (['--chords', 'Q'], 'Q')])
def test_command_says_what_is_wrong(checkpoint, sent, capsys, args, words, tmp_path):
    "Before a note is played"
    (tmp_path/'a.mid').mkdir()
    assert run('live', [str(checkpoint), *(o.format(folder=tmp_path) for o in args)]) == 1 and not rows(sent)
    err = capsys.readouterr().err
    assert words in err and err.count('\n')==1

def test_thinker_is_a_process(checkpoint):
    inbox = Inbox()
    t = Thinker(checkpoint, inbox)
    try:
        t.start(TokenRequest(bars=2, max_bar_tokens=30), 0)
        t.more()
        thought = inbox.get(inbox.now()+60)
        assert thought.number==0 and isinstance(thought.score, Score) and thought.seconds > 0
    finally: t.close()
    with pytest.raises(Exception): Thinker(checkpoint.parent/'none', inbox)

def test_thinker_takes_time(checkpoint):
    "How long a token takes is known before the first bar, with weights of one byte, too"
    inbox,asked = Inbox(),TokenRequest(programs=[73], max_bar_tokens=30)
    t = Thinker(checkpoint, inbox, 'cpu', (asked, 'int8'))
    try:
        assert t.token > 0
        t.start(asked, 0, True)
        t.more()
        assert inbox.get(inbox.now()+60*slowness()).number==0
    finally: t.close()
