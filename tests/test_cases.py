"What users of MIDI libraries and music models reported elsewhere, as small files: channels, ports, chunks, meters, names, lists, links, prompts"
import io, os, struct, subprocess, sys
from dataclasses import replace
from pathlib import Path
import numpy as np
import mido, pytest
from meloformer.apps.cli import run
from meloformer.data.corpus import Corpus, find_midi
from meloformer.music.grid import Grid, read_beats
from meloformer.music.midi import file_of
from meloformer.music.score import METER, NOTE, TEMPO, Score, Track, columns
from meloformer.net.pretrained import MeloFormer
from meloformer.tokens.edit import Song, bar_count, merged, NEW_NOTE, read_song
from meloformer.tokens.hid import HID
from meloformer.writing.request import GenerationRequest, run_takes

END = b'\0\xff\x2f\0'
def smf(*tracks): return file_of([t+END for t in tracks], 480)
def vlq(n): return bytes((0x80|n>>7, n&127)) if n>127 else bytes((n,))
def note(pitch, c=0, delta=0, length=480, velocity=80): return vlq(delta)+bytes((0x90+c, pitch, velocity))+vlq(length)+bytes((0x80+c, pitch, 0))
def scale(c=0, n=8, length=480): return b''.join(note(60+i, c, 0, length) for i in range(n))
def beats(c=10): return b''.join(note(p, c, 0, 240) for p in (36, 42, 38, 42)*2)
def meta(kind, body, delta=0): return vlq(delta)+b'\xff'+bytes((kind, len(body)))+body
def sysex(*body): return bytes((0, 0xf0, len(body)+1, *body, 0xf7))
TEMPO_100,METER_44 = meta(0x51, b'\x09\x27\xc0'),meta(0x58, b'\4\2\x18\x08')
GS_RESET,XG_ON,GM2_ON = sysex(0x41, 0x10, 0x42, 0x12, 0x40, 0, 0x7f, 0, 0x41),sysex(0x43, 0x10, 0x4c, 0, 0, 0x7e, 0),sysex(0x7e, 0x7f, 9, 3)
def bank(c, msb, program=0): return bytes((0, 0xb0+c, 0, msb, 0, 0xb0+c, 32, 0, 0, 0xc0+c, program))
def players(score): return [(t.program, t.is_drum) for t in score.tracks]

def by_channel(data):
    "Every note as a synthesizer plays it, by mido and a program for each port and channel: sorted (onset, end, pitch, velocity, program or 'drums')"
    file,events = mido.MidiFile(file=io.BytesIO(data)),[]
    for i,track in enumerate(file.tracks):
        tick,port = 0,0
        for j,m in enumerate(track):
            tick += m.time
            if m.type=='midi_port': port = m.port
            if m.type=='program_change' or m.type.startswith('note_'): events.append((tick, 1+(m.type=='note_on' and m.velocity>0) if m.type!='program_change' else 0, i, j, port, m))
    program,sounding,res = {},{},[]
    for tick,_,_,_,port,m in sorted(events, key=lambda o: o[:4]):
        where = port,m.channel
        if m.type=='program_change': program[where] = m.program
        elif m.type=='note_on' and m.velocity: sounding.setdefault((*where, m.note), []).append((tick, m.velocity, 'drums' if m.channel==9 else program.get(where, 0)))
        else:
            start,velocity,who = sounding[*where, m.note].pop(0)
            res.append((start, tick, m.note, velocity, who))
    return sorted(res, key=str)

def as_meant(score): return sorted([(o, o+d, p, v, 'drums' if score.tracks[t].is_drum else score.tracks[t].program) for o,d,p,v,t in score.notes.tolist()], key=str)

# Programs and drums belong to port and channel

def test_programs_in_another_track():
    "The programs of all channels stand in a track of their own"
    s = Score.from_bytes(smf(TEMPO_100+b'\0\xc0\x28\0\xc1\x49', scale(0), scale(1)))
    assert players(s) == [(40, False), (73, False)] and len(s.notes) == 16

def test_a_program_from_another_track_later():
    s = Score.from_bytes(smf(b'\0\xc0\x28'+b'\x8f\0\xc0\x29', scale(0))) # 1,920 ticks later another
    assert sorted((t.program, int((s.notes['track']==i).sum())) for i,t in enumerate(s.tracks)) == [(40, 4), (41, 4)]

def test_tracks_that_share_a_channel_keep_their_programs():
    "As libraries write more than fifteen instruments: each track gives its program at the beginning"
    tracks = [bytes((0, 0xc0+i%9, i))+scale(i%9) for i in range(20)]
    assert players(Score.from_bytes(smf(*tracks))) == [(i, False) for i in range(20)]

def test_ports_keep_their_programs():
    s = Score.from_bytes(smf(b'\0\xc0\x28', meta(0x21, b'\1')+scale(0), meta(0x21, b'\0')+scale(0), meta(0x21, b'\1')+beats(9)))
    assert players(s) == [(0, False), (40, False), (0, True)]

def test_a_port_that_changes_within_a_track():
    s = Score.from_bytes(smf(b'\0\xc0\x28', meta(0x21, b'\1')+b'\0\xc0\x49', note(60)+meta(0x21, b'\1')+note(62)))
    assert sorted((p, players(s)[t]) for p,t in zip(s.notes['pitch'].tolist(), s.notes['track'].tolist())) == [(60, (40, False)), (62, (73, False))]

def test_a_port_after_its_program():
    "As MuseScore writes it: eighteen tracks on two ports, each with its program first"
    tracks = [bytes((0, 0xc0+i%9, i))+meta(0x21, bytes((i//9,)))+scale(i%9) for i in range(18)]
    assert players(Score.from_bytes(smf(*tracks))) == [(i, False) for i in range(18)]
    assert players(Score.from_bytes(smf(b'\0\xc0\x28\0\xc1\x29'+meta(0x21, b'\1'), meta(0x21, b'\1')+scale(0), *tracks[11:]))) == [(40, False)]+[(i, False) for i in range(11, 18)]

@pytest.mark.parametrize('broken', [False, True])
@pytest.mark.parametrize('name,setup,c,drums', [
    ('GM', b'', 10, False), ('XG bank 127', XG_ON+bank(10, 127), 10, True), ('XG bank 126', XG_ON+bank(10, 126), 10, True), ('XG melody', XG_ON+bank(10, 127)+bank(10, 0), 10, False),
    ('bank 127 without XG', bank(10, 127), 10, False), ('bank 127 in GS', XG_ON+GS_RESET+bank(10, 127), 10, False), ('XG part mode', XG_ON+sysex(0x43, 0x10, 0x4c, 8, 10, 7, 2), 10, True),
    ('GM2 bank 120', GM2_ON+bank(10, 120), 10, True), ('GM2 bank 120, not switched on', bank(10, 120), 10, True), ('GM2 bank 121 on channel 10', GM2_ON+bank(9, 121, 5), 9, False), ('channel 10', bank(9, 0, 8), 9, True),
    ('GS rhythm part', GS_RESET+sysex(0x41, 0x10, 0x42, 0x12, 0x40, 0x1a, 0x15, 1, 0x10), 10, True), ('GS part 10 plays a melody', GS_RESET+sysex(0x41, 0x10, 0x42, 0x12, 0x40, 0x10, 0x15, 0, 0x1b), 9, False),
    ('GS part 1', sysex(0x41, 0x10, 0x42, 0x12, 0x40, 0x11, 0x15, 2, 0x18), 0, True), ('a bank waits for its program', GM2_ON+bytes((0, 0xba, 0, 120)), 10, False)])
def test_drum_modes(name, setup, c, drums, broken):
    "Drums by XG, GS and GM2 on any channel, melodies on the tenth; also where the file has to be walked through"
    fault = b'\0\xf8' if broken else b''
    for tracks in ((setup+fault+beats(c)+scale(3),), (setup+fault, beats(c)+scale(3))):
        s = Score.from_bytes(smf(*tracks))
        kinds = {p: s.tracks[t].is_drum for p,t in zip(s.notes['pitch'].tolist(), s.notes['track'].tolist())}
        assert kinds[36] == drums and not kinds[67], name
        assert len(s.notes) == 16 and HID().decode(HID().encode(s)) == s.quantized()

def test_drums_and_a_melody_on_one_channel():
    "Two parts of a song: drums, then a melody, then drums"
    s = Score.from_bytes(smf(GM2_ON+bank(10, 120)+beats()+bank(10, 121, 7)+scale(10)+bank(10, 120)+beats()))
    assert sorted((t.is_drum, t.program, int((s.notes['track']==i).sum())) for i,t in enumerate(s.tracks)) == [(False, 7, 8), (True, 0, 16)]

def test_a_program_on_the_tick_of_a_note():
    "It is meant for that note, even after it: no player of a single note"
    s = Score.from_bytes(smf(b'\0\x90\x3c\x50\0\xc0\x28'+vlq(480)+b'\x80\x3c\0'+scale()))
    assert players(s) == [(40, False)] and len(s.notes) == 9
    s = Score.from_bytes(smf(b'\0\xc0\0\0\x90\x3c\x50\0\xc0\x28\0\x90\x40\x50'+vlq(480)+b'\x80\x3c\0\0\x80\x40\0')) # said before each
    assert players(s) == [(0, False), (40, False)]

def test_merging_knows_channels():
    "New notes go to the player's own channel, whichever track names the program, and no channel gets two"
    data = smf(GM2_ON+b'\0\xc0\x28'+bank(10, 120), scale(0)+beats(10), *(bytes((0, 0xc0+c, c))+scale(c) for c in range(16) if c not in (0, 9, 10)))
    song = Song(Score.from_bytes(data), data)
    new = columns(NEW_NOTE, onset=9600, duration=480, pitch=[70, 35, 71, 72], velocity=99, program=[40, 128, 73, 74], instance=0)
    out = merged(song, np.zeros(len(song.score.notes), bool), new)
    assert {(p, w) for _,_,p,v,w in by_channel(out) if v==99} == {(70, 40), (35, 0), (71, 73), (72, 74)} # mido's reader knows no GM2
    assert {(o.tolist()[2], players(s)[o['track']]) for s in [Score.from_bytes(out)] for o in s.notes if o['velocity']==99} == {(70, (40,False)), (35, (0,True)), (71, (73,False)), (72, (74,False))}

@pytest.mark.parametrize('n,drums', [(3, 1), (15, 1), (16, 1), (20, 2), (62, 3)])
def test_one_program_a_channel(n, drums):
    "What we write, read by a reader that knows ports and channels alone"
    who = [Track(5*i%128) for i in range(n)]+[Track(0, True)]*drums
    s = Score(480, np.array([(480*k, 240*(1+(i+k)%5), 60+k, 80, i) for i in range(len(who)) for k in range(4)], NOTE), who)
    assert by_channel(s.to_bytes()) == as_meant(s)
    assert Score.from_bytes(s.to_bytes()) == s

def test_nested_notes():
    "A hand-built score in which notes of one pitch lie within each other: what is written sounds as it was built"
    rng = np.random.default_rng(0)
    for rows in ([(0,1920,60,90,0), (480,480,60,50,0)], [(0,960,60,90,0), (240,240,60,50,0), (300,60,60,40,0), (1200,60,60,30,0)],
                 [(int(o), int(d), int(p), 9+i, 0) for i,(o,d,p) in enumerate(zip(rng.integers(0, 900, 40), rng.integers(1, 900, 40), rng.integers(60, 63, 40)))]):
        s = Score(480, np.array(rows, NOTE), [Track(40)])
        assert sorted(o[:3] for o in by_channel(s.to_bytes())) == sorted(o[:3] for o in as_meant(s))
        back = Score.from_bytes(s.to_bytes())
        assert sorted(o[:3] for o in back.notes.tolist()) == sorted(o[:3] for o in s.notes.tolist()) and {t.program for t in back.tracks} == {40}
        song = read_song(s)
        first = np.arange(len(s.notes))==0
        assert [o[:3] for o in by_channel(merged(song, ~first, np.zeros(0, NEW_NOTE)))] == [(int(o), int(o)+int(d), int(p)) for o,d,p in song.score.notes[first][['onset','duration','pitch']].tolist()]

# Chunks

@pytest.mark.parametrize('junk', [b'\0', b'\0\xb0\x79\0', b'MTr', bytes(99), b'TEXT\x7f\0\0\0abc'])
def test_bytes_between_tracks(junk):
    "After the end of a track the next one is looked for"
    a,b = smf(TEMPO_100+scale(0)),smf(b'\0\xc1\x28'+scale(1))[14:]
    s = Score.from_bytes(a[:10]+b'\0\2'+a[12:]+junk+b)
    assert len(s.notes) == 16 and players(s) == [(0, False), (40, False)] and [round(o) for o in s.tempos['bpm']] == [100]
    assert s.notices == dict(between_tracks=len(junk))

def test_two_files_in_one_are_still_two():
    a = smf(scale(0))
    assert Score.from_bytes(a+b'\0'+a).notices == dict(trailing_bytes=1+len(a))

# Bars

def test_a_meter_said_again():
    "Within a bar the first time ends a pickup; later it is an accident, and counted; at a bar line it says nothing"
    pickup = METER_44+note(67)+METER_44+scale()
    s = Score.from_bytes(smf(pickup+scale()))
    assert s.bars()['onset'].tolist()[:3] == [0, 480, 2400] and s.notices == dict(cut_bar=1)
    assert Score.from_bytes(s.to_bytes()) == s and [(o['numerator'], o['denominator']) for o in Grid.from_score(s).bars][:2] == [(1, 4), (4, 4)]
    late = Score.from_bytes(smf(pickup+METER_44+note(60)+METER_44+scale(n=3)+METER_44+scale()))
    assert late.bars()['onset'].tolist()[:4] == [0, 480, 2400, 4320] and late.notices == dict(cut_bar=1, meter_again=1)
    assert Score.from_bytes(smf(METER_44+scale(n=4)+METER_44+scale())).meters.tolist() == [(0, 4, 4)]

def test_tempos_after_the_end():
    "They belong to no music: neither read, nor written, nor does a song that goes on run into them"
    data = smf(meta(0x51, b'\7\xa1\x20')+b'\xba\xcc\0'+meta(0x51, b'\x0f\x42\x40')[1:]+b'\xba\xcc\0'+meta(0x58, b'\3\2\x18\x08')[1:], scale())
    s = Score.from_bytes(data)
    assert s.tempos['bpm'].tolist() == [120] and s.meters.tolist() == [(0, 4, 4)] and s.dropped == dict(tempos_and_meters_after_the_last_note=2)
    built = Score(480, s.notes, s.tracks, np.array([(0, 120.), (960_000, 60.)], TEMPO))
    for o in (s, built): assert mido.MidiFile(file=io.BytesIO(o.to_bytes())).length < 5

def test_what_was_right():
    "A release too many, meters of 5/8, 8/8 and 5/8, a pickup said as a bar of 1/4, a note after the end"
    twice = b'\0\x90\x3c\x50\x64\x90\x3c\x50'+vlq(380)+b'\x80\x3c\0\0\x80\x3c\0\0\x80\x3c\0'+note(62, delta=480)
    assert Score.from_bytes(smf(twice)).notes[['onset','duration','pitch']].tolist() == [(0, 480, 60), (100, 380, 60), (960, 480, 62)]
    meter = lambda n,d: meta(0x58, bytes((n, d, 24, 8)))
    s = Score.from_bytes(smf(meter(5, 3)+scale(n=5, length=240)+meter(8, 3)+scale(n=8, length=240)+meter(5, 3)+scale(n=5, length=240)))
    assert [(o['onset'], o['numerator'], o['denominator']) for o in s.bars()] == [(0, 5, 8), (1200, 8, 8), (3120, 5, 8)] and not s.notices
    s = Score.from_bytes(smf(meter(1, 2)+note(67)+METER_44+scale()))
    assert s.bars()['onset'].tolist() == [0, 480, 2400] and not s.notices
    s = Score.from_bytes(smf(scale()+END+note(90)))
    assert len(s.notes) == 8 and s.notices == dict(after_end=1)

# Names

def test_names():
    "Decoded where the encoding is sure; else the bytes are kept, can be shown, and are written back"
    names = ['ピアノ'.encode('shift-jis'), 'Pi'.encode('utf-16'), b'Copyright \xa9 2008', 'Flöte'.encode(), b'\xef\xbb\xbfVoice', b'\x1b[31mred\7', b'\2ab']
    s = Score.from_bytes(smf(*(meta(3, o)+scale(c) for c,o in enumerate(names))))
    assert [t.name for t in s.tracks] == [r'\x83s\x83A\x83m', 'Pi', r'Copyright \xa9 2008', 'Flöte', 'Voice', '[31mred', 'ab']
    data = s.to_bytes()
    assert all(meta(3, o)[1:] in data for o in (names[0], names[2], names[3], b'Pi', b'Voice'))
    assert [t.name for t in Score.from_bytes(data).tracks] == [t.name for t in s.tracks]
    s.tracks[0].name = 'ピアノ' # who knows better has the last word
    assert meta(3, 'ピアノ'.encode())[1:] in s.to_bytes()

# Lists, links, consoles

@pytest.mark.parametrize('code', ['utf-8', 'utf-8-sig', 'utf-16'])
def test_a_list_with_a_mark(tmp_path, code):
    "Editors and shells begin a text with a byte-order mark"
    (tmp_path/'list.txt').write_bytes('midi/p000.mid\r\nmidi/曲.mid\r\n'.encode(code))
    assert list(map(str, find_midi(tmp_path/'list.txt'))) == ['midi/p000.mid', 'midi/曲.mid']

def test_beats_with_a_mark(tmp_path):
    "So do lists of beats"
    (tmp_path/'a.beats').write_text('0.5 1\n1 2\n', 'utf-8-sig')
    assert read_beats(tmp_path/'a.beats').tolist() == [[.5, 1], [1, 2]]

def test_linked_folders_are_said(tmp_path, capsys):
    "They are not followed, as they may lead in circles; nor are they left out in silence"
    song = smf(b''.join(note(48+7*i%25, length=480) for i in range(64)))
    for o in ('here', 'there'):
        (tmp_path/o).mkdir()
        (tmp_path/o/'a.mid').write_bytes(song)
    (tmp_path/'here/link').symlink_to(tmp_path/'there')
    (tmp_path/'here/round').symlink_to(tmp_path/'here')
    assert run('prepare', [str(tmp_path/'here'), str(tmp_path/'out'), '--val_share=0']) == 0 and run('check', [str(tmp_path/'here')]) == 0
    said = [o for o in capsys.readouterr().out.splitlines() if 'not followed' in o]
    assert len(said) == 2 and all(f'{tmp_path}/here/{o}' in line for o in ('link', 'round') for line in said)
    assert Corpus(tmp_path/'out').manifest['links'] == [f'{tmp_path}/here/link', f'{tmp_path}/here/round']

def cli(*args, **env): return subprocess.run([sys.executable, '-c', 'from meloformer.apps.cli import main; main()', *map(str, args)], capture_output=True, env=os.environ|env)

def test_a_console_that_lacks_a_letter(tmp_path):
    p = cli('generate', '--bars', 1, '--instruments', 'flute', '--out', tmp_path/'曲.mid', PYTHONIOENCODING='latin-1')
    assert p.returncode == 0 and rb'\u66f2.mid' in p.stdout, p.stderr
    assert sorted(o.name for o in tmp_path.iterdir()) == ['曲.mid', '曲.png']

# Prompts

def ring(n): return b''.join(note(60+i%5) for i in range(n))

def test_silent_last_bars(tmp_path):
    "A piece has as many bars as were asked for, also where the last are silent: on the score, in the file, in the picture"
    hid = HID()
    t = hid.encode(Score.from_bytes(smf(ring(8))))
    chord = t[1:2]
    s = hid.decode(np.concatenate([t[:-1], chord, chord, t[-1:]]))
    assert len(s.bars()) == 4 and len(hid.decode(t).bars()) == 2
    s.save_png(tmp_path/'a.png', sections=[(0, 'as it was'), (3, 'new')])
    file = mido.MidiFile(file=io.BytesIO(s.to_bytes()))
    assert max(sum(m.time for m in o) for o in file.tracks) == 4*4*file.ticks_per_beat

def test_silent_last_bars_keep_their_meter():
    "Bars of rest were counted in the meter of the last bar that sounds"
    hid = HID()
    g = Grid.from_score(Score.from_bytes(smf(ring(4)+meta(0x58, b'\3\2\x18\x08')+ring(9))))
    g.notes = g.notes[g.notes['bar']==0]
    s = g.score(rests=True)
    for o in (s, s.quantized(), hid.decode(hid.encode(s))): assert o.bars()['numerator'].tolist()==[4, 3, 3, 3]

@pytest.mark.parametrize('seed', [1, 2])
def test_a_prompt_and_a_hot_sampler(tmp_path, capsys, seed):
    "Exit status 0 and a picture, whether or not something sounds in the last bars; what the grid cuts from the prompt is said"
    (tmp_path/'p.mid').write_bytes(smf(ring(8), b'\0\x91\x3c\x50'+vlq(240)+b'\x91\x3c\x50'+vlq(240)+b'\x81\x3c\0'+vlq(960)+b'\x81\x3c\0'))
    assert run('generate', [f'--{k}={v}' for k,v in dict(prompt=tmp_path/'p.mid', prompt_bars=1, bars=3, temperature=2, seed=seed, attempts=1, out=tmp_path/'o.mid').items()]) == 0
    assert (tmp_path/'o.png').read_bytes().startswith(b'\x89PNG')
    assert 'p.mid, as it was read: grid: 0 notes merged with a twin, 1 cut at a re-strike' in capsys.readouterr().out

ASKED = dict(fill_the_rest=dict(fill='4-5'), rewrite=dict(rewrite='piano'), go_on=dict(bars=7), go_on_early=dict(bars=6, prompt_bars=4))

@pytest.mark.parametrize('asked', ASKED)
def test_a_prompt_that_ends_silent(checkpoint, asked):
    "Two bars that sound and three of rest are five, whatever is asked about them, and also where the answer is silent"
    model = MeloFormer.from_pretrained(checkpoint)
    s = replace(Score.from_bytes(smf(ring(8))), length=5*4*480)
    r = GenerationRequest(prompt=s, takes=2, attempts=1, max_rest_bars=-1, **ASKED[asked])
    for t in run_takes(model, model.hid, r):
        assert len(t.score.bars())==bar_count(t.score)==len(Grid.from_score(t.score).bars)==ASKED[asked].get('bars', 5)
    with pytest.raises(ValueError, match='has 5'): run_takes(model, model.hid, GenerationRequest(prompt=s, **(dict(fill='6-6') if 'bars' not in ASKED[asked] else dict(bars=5))))

@pytest.mark.parametrize('asked', [dict(fill='1-2'), dict(bars=4)])
def test_a_model_that_knows_nothing(checkpoint, tmp_path, capsys, asked):
    "Silent last bars, in the file and in the answer: exit status 0, and each is said"
    (tmp_path/'p.mid').write_bytes(smf(ring(8)+vlq(5*1920)+b'\xff\6\5Coda!'))
    assert len(Score.read(tmp_path/'p.mid').bars())==2
    assert run('generate', [str(checkpoint), *(f'--{k}={v}' for k,v in dict(prompt=tmp_path/'p.mid', attempts=1, takes=2, max_rest_bars=-1, seed=0, out=tmp_path/'o.mid', **asked).items())]) == 0
    out,said = capsys.readouterr().out,set()
    for i in (1, 2):
        s = Score.read(tmp_path/f'o-{i}.mid')
        said |= {f'bar {b+1} is silent' for b in range(asked.get('bars', 2)) if not ((s.notes['onset']>=1920*b-10) & (s.notes['onset']<1920*(b+1)-10)).any()}
    assert all(o in out for o in said), (out, said)
    capsys.readouterr()
    assert run('generate', [str(checkpoint), f'--prompt={tmp_path}/p.mid', '--fill=4-5', f'--out={tmp_path}/q.mid']) == 1
    assert 'bars 4 to 5 are asked for, but the piece has 2' in capsys.readouterr().err

def test_long_bars_in_the_picture(tmp_path):
    "Bars of twelve quarter notes are two on the grid, and one in the picture"
    (tmp_path/'p.mid').write_bytes(smf(meta(0x58, b'\x0c\2\x18\x08')+ring(48)))
    assert run('generate', [f'--{k}={v}' for k,v in dict(prompt=tmp_path/'p.mid', fill='7-8', attempts=1, out=tmp_path/'o.mid').items()]) == 0
