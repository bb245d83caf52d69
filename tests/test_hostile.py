"Files that are broken, absurd or malicious: each is read as far as it makes sense, with its defects named, or refused in words"
import json, os, random, socket, subprocess, sys, time
from pathlib import Path
import numpy as np
import pytest
from conftest import slowness, within
from fake_parser import divide, nasty
from meloformer.data import corpus
from meloformer.data.corpus import build, find_midi
from meloformer.tokens.hid import HID
from meloformer.music.midi import NOTICES, MidiError, clean, printable
from meloformer.data.parallel import file_map
from meloformer.music.score import Score, Track

root = Path(__file__).resolve().parent.parent
hid = HID()

# How files are made
def vlq(n, least=1):
    res = bytes([n & 127])
    while (n := n>>7) or len(res) < least: res = bytes([n & 127 | 128])+res
    return res
def chunk(body, kind=b'MTrk', size=None): return kind+(len(body) if size is None else size).to_bytes(4, 'big')+body
def head(n, fmt=1, division=480, extra=b''): return chunk(b''.join(o.to_bytes(2, 'big') for o in (fmt, n, division))+extra, b'MThd')
def smf(*tracks, **kw): return head(len(tracks), **kw)+b''.join(map(chunk, tracks))
def meta(kind, body, delta=0): return vlq(delta)+bytes((0xff, kind))+vlq(len(body))+body
def on(p, delta=0, v=80, c=0): return vlq(delta)+bytes((0x90+c, p, v))
def off(p, delta=480, c=0): return vlq(delta)+bytes((0x80+c, p, 0))
def notes(n=8, c=0, first=60): return b''.join(on(first+i, c=c)+off(first+i, c=c) for i in range(n))
def tempo(bpm=120, delta=0): return meta(0x51, round(6e7/bpm).to_bytes(3, 'big'), delta)
def meter(n, d, delta=0): return meta(0x58, bytes((n, d, 24, 8)), delta)
def rand(n, seed=0): return random.Random(seed).randbytes(n)
END,EIGHT = meta(0x2f, b''),notes()
CONDUCTOR = tempo()+meter(4, 2)+END
good = smf(CONDUCTOR, EIGHT+END)
last = good[:14]+chunk(CONDUCTOR) # what stands before the last track of `good`
rmid = lambda b: b'RIFF'+(len(b)+12).to_bytes(4, 'little')+b'RMID'+b'data'+len(b).to_bytes(4, 'little')+b

# bytes, how many notes are read, which notices are given
LOADED = dict(
    good                    = (good, 8, ''),
    header_of_10_bytes      = (head(1, extra=b'abcd')+chunk(EIGHT+END), 8, ''),
    header_length_of_0      = (b'MThd'+bytes(4)+smf(EIGHT+END)[8:], 8, 'header_length'),
    header_length_of_7      = (b'MThd\0\0\0\7'+smf(EIGHT+END)[8:], 8, 'header_length'),
    riff                    = (rmid(good), 8, ''),
    mail_before_the_header  = (b'Content-Type: audio/midi\r\n\r\n'+good, 8, 'leading_bytes'),
    macbinary               = (bytes(128)+good, 8, 'leading_bytes'),
    alien_chunks            = (head(1)+chunk(b'hello', b'XFIH')+chunk(EIGHT+END)+chunk(b'\0\1', b'XFKM'), 8, ''),
    count_too_low           = (head(1)+b''.join(map(chunk, (CONDUCTOR, EIGHT+END, notes(c=1)+END))), 16, 'track_count'),
    count_too_high          = (head(65535)+chunk(CONDUCTOR)+chunk(EIGHT+END), 8, 'track_count'),
    track_too_long          = (last+chunk(EIGHT+END, size=100_000), 8, 'truncated'),
    track_too_short         = (last+chunk(EIGHT+END, size=9), 8, 'track_length'),
    track_of_length_0       = (last+chunk(EIGHT+END, size=0), 8, 'track_length'),
    track_swallows_the_next = (head(2)+chunk(EIGHT+END, size=60+len(EIGHT))+chunk(EIGHT+END), 16, 'track_length'),
    empty_track             = (head(3)+chunk(CONDUCTOR)+chunk(b'')+chunk(EIGHT+END), 8, ''),
    no_end                  = (smf(CONDUCTOR, EIGHT), 8, 'no_end'),
    early_end               = (smf(EIGHT+END+EIGHT+END), 8, 'after_end'),
    end_with_data           = (smf(EIGHT+meta(0x2f, b'ab')), 8, ''),
    garbage_behind          = (good+rand(777), 8, 'trailing_bytes'),
    zeros_behind            = (good+bytes(500), 8, 'trailing_bytes'),
    one_byte_behind         = (good+b'\0', 8, 'trailing_bytes'),
    another_file_behind     = (good+good, 8, 'second_file'),
    format_0                = (smf(EIGHT+notes(c=9)+notes(c=3)+END, fmt=0), 24, ''),
    format_0_of_two         = (smf(EIGHT+END, EIGHT+END, fmt=0), 16, 'format_0'),
    format_2                = (smf(tempo()+END, EIGHT+END, notes(20)+END, fmt=2), 8, 'format_2'),
    format_2_of_one         = (smf(EIGHT+END, fmt=2), 8, ''),
    format_7                = (smf(EIGHT+END, fmt=7), 8, 'format'),
    smpte                   = (smf(EIGHT+END, division=(256-25)<<8|40), 8, 'smpte'),
    smpte_drop_frame        = (smf(tempo(90)+EIGHT+END, division=(256-29)<<8|80), 8, 'smpte'),
    division_1              = (smf(on(60)+off(60, 1)+on(62)+off(62, 1)+END, division=1), 2, ''),
    division_32767          = (smf(EIGHT+END, division=32767), 8, ''),
    cut_in_a_time           = (smf(on(60)+off(60)+on(62)+b'\x83'), 2, 'no_end broken_events unreleased zero_length'),
    cut_in_a_text           = (smf(CONDUCTOR, EIGHT+meta(1, b'x'*40)+END)[:-20], 8, 'truncated'),
    lost_last_byte          = (good[:-1], 8, 'truncated'),
    huge_silence            = (smf(EIGHT+on(72, (1<<28)-1)+off(72)+END), 8, 'too_long'),
    clock_overflows         = (smf(EIGHT+b''.join(on(60, (1<<28)-1)+off(60) for _ in range(20))+END), 8, 'too_long'),
    note_for_years          = (smf(on(60)+off(60, 1<<27)+on(62)+END), 1, 'long_note too_long unreleased'),
    time_of_5_bytes         = (smf(EIGHT+vlq(480, 5)+on(72)[1:]+off(72)+END), 9, 'long_number'),
    time_of_32_bits         = (smf(vlq(1<<30)+on(72)[1:]+off(72)+EIGHT+END), 9, 'long_number'),
    time_of_4_bytes         = (smf(EIGHT+vlq(480, 4)+on(72)[1:]+off(72)+END), 9, ''),
    tempo_0                 = (smf(meta(0x51, bytes(3))+EIGHT+END), 8, 'tempo'),
    tempo_slowest           = (smf(meta(0x51, b'\xff\xff\xff')+EIGHT+END), 8, 'tempo_range'),
    tempo_fastest           = (smf(meta(0x51, b'\0\0\1')+EIGHT+END), 8, 'tempo_range'),
    tempo_of_0_bytes        = (smf(meta(0x51, b'')+EIGHT+END), 8, 'meta_length'),
    tempo_of_7_bytes        = (smf(meta(0x51, b'1234567')+EIGHT+END), 8, 'meta_length'),
    tempo_says_2_has_3      = (smf(b'\0\xff\x51\2\x07\xa1\x20'+EIGHT+END), 8, 'meta_length'),
    tempos_at_odds          = (smf(*(tempo(o)+EIGHT+END for o in (90, 100, 110, 120))), 32, 'tempo_conflict'),
    tempos_agree            = (smf(*[tempo(90)+EIGHT+END]*4), 32, ''),
    tempos_10_000           = (smf(b''.join(tempo(60+i%100, i and 48) for i in range(10_000))+END, EIGHT+END), 8, ''),
    meter_0_4               = (smf(meter(0, 2)+EIGHT+END), 8, 'meter'),
    meter_4_below_2_to_255  = (smf(meter(4, 255)+EIGHT+END), 8, 'meter'),
    meter_255_1             = (smf(meter(255, 0)+EIGHT+END), 8, 'long_bar'),
    meter_of_1_byte         = (smf(meta(0x58, b'\4')+EIGHT+END), 8, 'meta_length'),
    meters_at_odds          = (smf(b''.join(meter(1+i%9, 2) for i in range(1000))+EIGHT+END), 8, 'meter_conflict'),
    meter_within_a_bar      = (smf(meter(4, 2)+meter(3, 2, 1200)+END, notes(16)+END), 16, 'cut_bar'),
    meters_odd              = (smf(meter(5, 3)+meter(7, 3, 1200)+meter(33, 6, 1680)+END, notes(40)+END), 40, ''),
    key_of_20_sharps        = (smf(meta(0x59, b'\x14\5')+EIGHT+END), 8, 'key'),
    notes_120_000           = (smf((on(60)+off(60, 60))*120_000+END), 120_000, ''),
    never_released          = (smf(EIGHT+on(70)+on(71)+END), 10, 'unreleased zero_length'),
    never_released_20_000   = (smf(b''.join(on(i%128, 10) for i in range(20_000))+meta(1, b'x', 480)+END), 20_000, 'unreleased'),
    one_key_20_000          = (smf(b''.join(on(60, 10) for i in range(20_000))+meta(1, b'x', 480)+END), 20_000, 'unreleased'),
    overlapping             = (smf(on(60)+on(60, 240)+off(60, 240)+off(60, 240)+END), 2, ''),
    no_length               = (smf((on(60)+off(60, 0))*32+EIGHT+END), 40, 'zero_length'),
    one_tick                = (smf((on(60)+off(60, 1))*32+END), 32, ''),
    released_by_velocity_0  = (smf(on(60)+b''.join(vlq(480)+bytes((60, 0, 0, 60, 80)) for _ in range(500))+END), 501, 'unreleased zero_length'),
    stray_releases          = (smf(off(60)*99+EIGHT+END), 8, ''),
    control_value_168       = (smf(on(60)+off(60)+b'\0\xb0\7\xa8'+EIGHT+END), 9, 'broken_events'),
    velocity_168            = (smf(EIGHT+on(70, v=168)+off(70)+EIGHT+END), 17, 'broken_events'),
    pitch_168               = (smf(EIGHT+on(168)+EIGHT+END), 16, 'broken_events'),
    program_200             = (smf(b'\0\xc0\xc8'+EIGHT+END), 8, 'broken_events'),
    a_byte_is_missing       = (smf(notes(30)+on(60)[:-1]+off(60)+notes(30)+END), 61, 'broken_events'),
    a_byte_too_many         = (smf(notes(30)+b'\x7f\x7f'+notes(30)+END), 59, None),
    undefined_status        = (smf(b'\0\xf4\0\xf5'+EIGHT+END), 8, 'system_events'),
    clock_in_a_track        = (smf(b'\0\xf8\0\xfe'+EIGHT+END), 8, 'system_events'),
    song_position           = (smf(b'\0\xf2\1\2\0\xf1\3\0\xf6'+EIGHT+END), 8, 'system_events'),
    status_after_a_text     = (smf(on(60)+meta(1, b'x')+b'\x60\x3c\0'+EIGHT+END), 9, 'running_status'),
    times_like_messages     = (smf(b''.join(on(60, 128*o)+off(60, 128*o) for o in range(0x70, 0x80))+END), 16, ''),
    sysex_50_000            = (smf(b'\0\xf0\3\x7e\1\xf7'*50_000+EIGHT+END), 8, ''),
    sysex_without_its_end   = (smf(b'\0\xf0\3\x7e\1\1'+EIGHT+END), 8, ''),
    sysex_in_two_parts      = (smf(b'\0\xf0\2\x7e\1\0\xf7\2\1\xf7'+EIGHT+END), 8, ''),
    bends_100_000           = (smf(b'\0\xe0\0\x40'*100_000+EIGHT+END), 8, ''),
    aftertouch_60_000       = (smf(b'\0\xa0\x3c\x40'*60_000+EIGHT+END), 8, ''),
    lyrics_10_000           = (smf(b''.join(meta(5, b'la')+on(60)+off(60, 20) for _ in range(10_000))+END), 10_000, ''),
    text_of_100_kB          = (smf(meta(0x7f, rand(100_000))+EIGHT+END), 8, ''),
    text_of_high_bytes      = (smf(b''.join(meta(k, bytes(range(128, 256))) for k in range(1, 8))+EIGHT+END), 8, ''),
    name_shift_jis          = (smf(meta(3, 'ピアノ'.encode('shift-jis'))+EIGHT+END), 8, ''),
    name_of_control_bytes   = (smf(meta(3, b'a\0\x1b[31m\n"\x7f\xc2\x85')+EIGHT+END), 8, ''),
    empty_tracks_2_000      = (smf(*[END]*2000, EIGHT+END), 8, ''),
    tracks_300              = (smf(*(notes(2, c=i%16)+END for i in range(300))), 600, ''),
    programs_128            = (smf(*(bytes((0, 0xc0, i))+notes(2)+END for i in range(128))), 256, ''),
    programs_in_one_track   = (smf(EIGHT+b'\0\xc0\x30'+EIGHT+b'\0\xc0\0'+EIGHT+END), 24, ''),
    program_0_on_channel_10 = (smf(b'\0\xc9\0'+notes(c=9)+END), 8, ''),
    noise_at_the_end        = (smf(CONDUCTOR, notes(60)+END, notes(60)+rand(900)), 120, None),
)

# bytes, words of the reason
REFUSED = dict(
    nothing                 = (b'', 'is empty'),
    one_byte                = (b'M', 'not a MIDI file'),
    a_page                  = (b'<html>404</html>', 'not a MIDI file'),
    utf_16                  = ('MThd MTrk'.encode('utf-16')*20, 'not a MIDI file'),
    random_4_kB             = (rand(4096), 'not a MIDI file'),
    random_1_MB             = (rand(1<<20), 'not a MIDI file'),
    a_score                 = (b'PK\3\4'+rand(4000), 'not a MIDI file'),
    sound                   = (b'RIFF\0\0\1\0WAVEfmt '+rand(4000), 'not a MIDI file'),
    sysex_dump              = (b'\xf0\x7e\x7f\6\1\xf7', 'not a MIDI file'),
    half_a_header           = (good[:9], 'cut off within its header'),
    header_only             = (head(0), 'no tracks'),
    header_and_noise        = (head(1)+rand(5000), 'no tracks'),
    noise_in_a_track        = (smf(rand(5000)), 'no musical sense'),
    noise_in_ten_tracks     = (smf(CONDUCTOR, *(rand(900, i) for i in range(9))), 'no musical sense'),
    noise_with_an_end       = (smf(rand(5000)+END), 'no musical sense'),
    zeros_in_a_track        = (smf(bytes(3000)+END), 'no musical sense'),
    text_in_a_track         = (smf(b'It was a dark and stormy night. '*99+END), 'no musical sense'),
    division_0              = (smf(EIGHT+END, division=0), '0 ticks'),
    smpte_without_ticks     = (smf(EIGHT+END, division=0xe700), 'frames'),
    smpte_of_99_frames      = (smf(EIGHT+END, division=(256-99)<<8|40), 'frames'),
    no_notes                = (smf(CONDUCTOR, END), 'no notes'),
    sysex_beyond_the_end    = (smf(CONDUCTOR, b'\0\xf0\xff\xff\x7f\x7e'+EIGHT+END), 'n'),
)

def checked(score):
    "Is it in order, and does it survive encoding?"
    n = score.notes
    assert (n['onset']>=0).all() and (np.diff(n['onset'])>=0).all() and (n['duration']>0).all() and (n['pitch']<128).all() and (n['velocity']<128).all()
    assert n['track'].max(initial=0) < max(1, len(score.tracks)) and all(t.name.isprintable() for t in score.tracks)
    assert set(score.notices) <= set(NOTICES) and all(score.notices.values()) and all(o.isprintable() for o in score.remarks)
    assert hid.decode(hid.encode(score)) == score.quantized()
    json.dumps([score.notices, score.dropped])
    return score

@pytest.mark.parametrize('name', LOADED)
def test_loaded(name):
    data,n,notices = LOADED[name]
    t = time.time()
    s = checked(Score.from_bytes(data))
    assert len(s.notes) == n
    if notices is not None: assert set(s.notices)-{'track_count'} == set(notices.split())-{'track_count'} and ('track_count' not in notices or 'track_count' in s.notices), s.notices
    assert within(10, t)

@pytest.mark.parametrize('name', REFUSED)
def test_refused(name):
    data,words = REFUSED[name]
    t = time.time()
    with pytest.raises(MidiError, match=words): Score.from_bytes(data)
    assert within(2, t)

def test_what_was_meant():
    "Not only how many notes, but which"
    def read(name): return Score.from_bytes(LOADED[name][0])
    whole = read('good')
    for o in ('track_too_short', 'riff', 'cut_in_a_text', 'no_end', 'tempo_0', 'clock_in_a_track', 'undefined_status', 'sysex_in_two_parts', 'huge_silence', 'key_of_20_sharps'):
        assert read(o) == whole, o
    assert [(t.program, t.is_drum) for t in read('format_0').tracks] == [(0,False), (0,False), (0,True)]
    assert sorted(t.program for t in read('programs_in_one_track').tracks) == [0, 48]
    assert read('program_0_on_channel_10').tracks == [Track(0, True)]
    assert len(read('tracks_300').tracks) == 300
    assert read('tempos_at_odds').tempos['bpm'].tolist() == [pytest.approx(120)]
    assert read('tempo_0').tempos['bpm'].tolist() == [120]
    assert read('meters_at_odds').meters.tolist() == [(0, 1, 4)] # the last of a thousand
    assert read('velocity_168').notes['velocity'].max() == 127
    assert read('never_released_20_000').end == 200_480
    assert read('one_key_20_000').notes['duration'].tolist() == [10]*19_999+[480]
    assert np.unique(read('overlapping').notes['duration']).tolist() == [480] # first in, first out
    assert read('time_of_5_bytes').notes['onset'][-1] == 9*480
    assert read('released_by_velocity_0').tracks[0].name == ''

@pytest.mark.parametrize('name,ticks', [('smpte', 1000), ('smpte_drop_frame', 80*30_000/1001)])
def test_seconds(name, ticks):
    "Without beats, time is kept"
    s = Score.from_bytes(LOADED[name][0])
    assert s.seconds(s.notes['onset'][-1]) == pytest.approx(7*480/ticks, rel=1e-5)

def test_walked_or_not():
    "Reading event by event gives the same as the parser alone"
    for name,(data,_,notices) in LOADED.items():
        if notices == '' and 'format_2' not in name:
            a,b = (Score.from_symusic(symusic_of(clean(data, walk=o)[0])) for o in (False, True))
            assert a == b, name

def symusic_of(data):
    import symusic
    s = symusic.Score.from_midi(data)
    for t in s.tracks: assert all(o.duration < 1<<29 for o in t.notes)
    return s

@pytest.mark.parametrize('cut', range(0, len(good), 3))
def test_cut_anywhere(cut):
    "What was read is the beginning of the piece"
    try: s = checked(Score.from_bytes(good[:cut]))
    except MidiError as e: assert e.reason and cut < len(last)+20
    else:
        whole = Score.from_bytes(good).notes
        assert s.notes['pitch'].tolist() == whole['pitch'][:len(s.notes)].tolist() and s.notices['truncated'] == 1

def mutated(rng, b):
    "A file with a few wrong, missing, doubled or foreign bytes"
    b = bytearray(b)
    for _ in range(rng.choice([1, 1, 2, 4, 16, 64])):
        i,k = rng.randrange(len(b)),rng.choice([1, 1, 2, 8, 60])
        how = rng.randrange(7)
        if how < 2: b[i] = rng.choice([0, 0x2f, 0x51, 0x58, 0x7f, 0x80, 0x90, 0xf0, 0xff, rng.randrange(256)])
        elif how == 2: b[i] ^= 1 << rng.randrange(8)
        elif how == 3: del b[i:i+k]
        elif how == 4: b[i:i] = rng.randbytes(k)
        elif how == 5: b[i:i] = b[(j := rng.randrange(len(b))):j+k]
        else: b[i:i+k] = bytes(k)
        if len(b) < 20: break
    return bytes(b if rng.random() < .9 else b[:rng.randrange(len(b))])

def test_fuzz(midi_folder):
    "Real files, mutated: a score in order, or a reason"
    rng,fate = random.Random(0),dict(read=0, mended=0, refused=0)
    whole = [f.read_bytes() for f in sorted(midi_folder.glob('bach*.mid'), key=lambda f: f.stat().st_size)[:40]]
    for i in range(300):
        data = mutated(rng, rng.choice(whole))
        try: s = Score.from_bytes(data)
        except MidiError: fate['refused'] += 1
        else:
            try: checked(s)
            except AssertionError as e: raise AssertionError(f'file {i} of the seed') from e
            fate['mended' if s.notices else 'read'] += 1
    assert all(fate.values()) and fate['mended'] > fate['refused'], fate

# What stands in a file system
@pytest.fixture
def strange(tmp_path):
    "A folder of everything that may be called a MIDI file; the names that can be read"
    d = tmp_path/'in'
    deep = d/'/'.join('d'*40)
    deep.mkdir(parents=True)
    (d/'folder.mid').mkdir()
    names = ['UPPER.MID', 'mixed.MiDi', 'song.kar', 'song.smf', 'song.rmi', 'noext', '.hidden.mid', '-dash.mid', 'new\nline.mid', 'tab\t\x1b[31m.mid', 'two  .mid', ' space.mid', 'a"b\'c.mid',
        'semi;$(echo x)&.mid', 'per%20cent.mid', 'dots..mid.mid', '文件.mid', 'café.mid', 'emoji_🎵.mid', 'شجرة.mid', 'x'*251+'.mid', 'folder.mid/inside.mid', 'bad\udcff\udcfe.mid']
    for i,o in enumerate(names): (d/o).write_bytes(rmid(smf(notes(33, first=30+i)+END)) if o.endswith('rmi') else smf(notes(33, first=30+i)+END))
    (deep/'deep.mid').write_bytes(smf(notes(40)+END))
    (d/'text').write_text('no music')
    (d/'page.txt').write_bytes(good)
    (d/'loop').symlink_to(d)
    (d/'up').symlink_to('..')
    (d/'a.mid').symlink_to('b.mid')
    (d/'b.mid').symlink_to('a.mid')
    (d/'dangling.mid').symlink_to('nothing')
    (d/'link.mid').symlink_to('UPPER.MID')
    os.mkfifo(d/'pipe.mid')
    os.mkfifo(d/'pipe')
    with socket.socket(socket.AF_UNIX) as s:
        here = os.getcwd()
        os.chdir(d)
        try: s.bind('socket.mid')
        finally: os.chdir(here)
    return d,{Path(o).name for o in names} | {'deep.mid', 'link.mid'}

def test_find(strange):
    d,names = strange
    found = find_midi(d)
    assert {o.name for o in found} == names | {'a.mid', 'b.mid', 'dangling.mid', 'pipe.mid', 'socket.mid'} and found == sorted(found)
    assert find_midi(d/'noext') == [d/'noext']
    for o in ('a.mid', 'dangling.mid', 'pipe.mid', 'socket.mid', 'folder.mid'):
        with pytest.raises(MidiError): Score.read(d/o)

def test_strange_names(strange, tmp_path):
    "They are read, told and logged, even where only ASCII can be printed"
    d,names = strange
    env = os.environ | dict(LC_ALL='C', PYTHONUTF8='0', PYTHONCOERCECLOCALE='0', PYTHONIOENCODING='ascii', OMP_NUM_THREADS='1', PYTHONPATH=str(root))
    out = tmp_path/'out-🎵'
    for args in (['prepare', d, out, '--val_share', '0', '--workers', '1', '--min_seconds', '1'], ['check', d, '--workers', '0'], ['prepare', d/'new\nline.mid'/'none', out]):
        res = subprocess.run([sys.executable, '-m', 'meloformer.apps.cli', *map(os.fsencode, args)], capture_output=True, env=env, timeout=1200)
        assert (res.returncode == 0 or args[1] != d) and b'Traceback' not in res.stderr and b'\x1b' not in res.stdout+res.stderr.replace(b'\x1b[A', b''), res.stderr
    rows = [json.loads(o) for o in (out/'files.jsonl').read_text().splitlines()]
    assert {Path(o['path']).name for o in rows if o['reason'] != 'unreadable'} >= {o for o in names if o.isascii()}
    assert sum(o['reason']=='unreadable' for o in rows) == 5 and sum(o['reason']=='duplicate' for o in rows) >= 1

def test_names_are_shown():
    assert printable('a\nb\x1b[31m\udcff\u202e.mid') == 'a\\nb\\x1b[31m\\xff\\u202e.mid'
    assert printable('文件_🎵.mid') == '文件_🎵.mid'
    assert str(MidiError('a\nb', 'is empty')) == 'a\\nb: is empty'

def test_unreadable_folder(tmp_path, monkeypatch):
    "It is told, not passed over"
    (tmp_path/'a.mid').write_bytes(good)
    (tmp_path/'closed').mkdir()
    real = os.scandir
    def closed(p):
        if str(p).endswith('closed'): raise PermissionError(13, 'Permission denied', str(p))
        return real(p)
    monkeypatch.setattr(os, 'scandir', closed)
    assert [o.name for o in find_midi(tmp_path)] == ['a.mid', 'closed']

BIG = '''
import resource, sys, time
from meloformer.music.score import MidiError, Score
for p in sys.argv[1:]:
    t = time.time()
    try: res = f'{len(Score.read(p).notes)} notes'
    except MidiError as e: res = e.reason
    print(f'{time.time()-t:.2f} {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024:.0f} {res}')
'''
def test_memory_and_time(tmp_path):
    "Files of gigabytes, and the most that 32 MB can hold"
    big = dict(zeros=bytes(4), behind=good, notes=smf((on(60)+off(60, 9))*1_000_000+END), broken=smf((on(60)+off(60, 9))*600_000+b'\0\xf4'+END),
        meters=smf(meter(1, 6)+EIGHT+on(60, 30_000_000)+off(60)+END, division=24), texts=smf(meta(1, b'x')*2_000_000+EIGHT+END))
    for k,v in big.items(): (tmp_path/f'{k}.mid').write_bytes(v)
    os.truncate(tmp_path/'zeros.mid', 3<<30)
    os.truncate(tmp_path/'behind.mid', 1<<30)
    with open(tmp_path/'larger.mid', 'wb') as f: f.write(last+chunk(EIGHT, size=1<<30)); f.truncate(1<<30)
    res = subprocess.run([sys.executable, '-c', BIG, *(str(tmp_path/f'{o}.mid') for o in [*big, 'larger'])], capture_output=True, text=True, timeout=1200,
        env=os.environ|dict(OMP_NUM_THREADS='1', PYTHONPATH=str(root)))
    assert res.returncode == 0, res.stderr
    rows = [o.split(' ', 2) for o in res.stdout.splitlines()]
    most = 10*slowness()
    assert all(float(t) < most and float(mb) < 1024 for t,mb,_ in rows), rows
    told = [o for _,_,o in rows]
    assert told[1:6] == ['8 notes', '1000000 notes', '600000 notes', '8 notes', '8 notes'] and 'not a MIDI file' in told[0] and 'largest read' in told[6], told

# Processes that die
def test_a_file_that_kills(tmp_path, monkeypatch):
    "It costs itself; the rest is the same for any number of workers"
    monkeypatch.setattr(corpus, 'encode_file', nasty)
    names = ['a', 'b-segfault', 'c', 'd-exit', 'e', 'f-hang', 'g', 'h-once', 'i']
    for i,o in enumerate(names):
        (tmp_path/'in').mkdir(exist_ok=True)
        (tmp_path/f'in/{o}.mid').write_bytes(smf(notes(40+i, first=20)+END))
    for n in (1, 3):
        (tmp_path/'in/h-once.seen').unlink(missing_ok=True)
        t = time.time()
        build(tmp_path/'in', tmp_path/f'{n}', val_share=0, workers=n, progress=False, seconds=10, max_overlap=1)
        assert within(60, t)
    rows = [json.loads(o) for o in (tmp_path/'1/files.jsonl').read_text().splitlines()]
    assert [Path(o['path']).stem for o in rows] == names
    assert {Path(o['path']).stem: o['detail'] for o in rows if o['reason']} == {
        'b-segfault': 'the parser crashed', 'd-exit': 'the parser crashed', 'f-hang': 'took longer than 10 s'}
    for f in (tmp_path/'1').iterdir(): assert f.read_bytes() == (tmp_path/'3'/f.name).read_bytes(), f

def test_a_worker_that_cannot_start(tmp_path, monkeypatch):
    class Dead:
        def __init__(self, *_): os._exit(1)
        def __reduce__(self): return Dead,()
    with pytest.raises(ValueError, match='could not start'): list(file_map(_unpicklable(), [Path('a')]*3, 2))

class _unpicklable:
    "A function whose unpickling ends the process"
    def __reduce__(self): return os._exit,(1,)

def test_an_error_of_ours_is_not_hidden(tmp_path):
    with pytest.raises(ZeroDivisionError): list(file_map(divide, [1, 0, 1], 2))

def test_pedal_on_the_command_line(tmp_path):
    from meloformer.apps.cli import run
    down = b''.join(b'\0\xb0\x40\x7f'+notes(4, first=40+5*i)+b'\0\xb0\x40\0' for i in range(9))
    (tmp_path/'in').mkdir()
    (tmp_path/'in/a.mid').write_bytes(smf(down+END))
    held,dry = Score.read(tmp_path/'in/a.mid', pedal=True),Score.read(tmp_path/'in/a.mid')
    assert held.notes['duration'][:4].tolist() == [1920, 1440, 960, 480] and set(dry.notes['duration'].tolist()) == {480}
    for o in ([], ['--pedal']): assert run('prepare', [str(tmp_path/'in'), str(tmp_path/f'out{len(o)}'), '--workers', '0', '--val_share', '0', *o]) == 0
    a,b = (corpus.Corpus(tmp_path/f'out{i}') for i in (0, 1))
    assert len(b[0]) > len(a[0]) and b.manifest['pedal'] and not a.manifest['pedal']
    assert a.manifest['dropped']['pedals'] == 9
