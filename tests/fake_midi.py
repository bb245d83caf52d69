"A MIDI system for tests: MIDO_BACKEND=fake_midi. What is sent goes to the file FAKE_MIDI_SENT, one message a line; what a player plays comes from FAKE_MIDI_PLAYED"
import json, os, threading, time
from mido import Message

def get_devices(**_): return [dict(name='Synth', is_input=False, is_output=True), dict(name='Keys', is_input=True, is_output=False)]

class Output:
    def __init__(self, name, **_): self.name,self.file = name,open(os.environ['FAKE_MIDI_SENT'], 'a')
    def send(self, m): self.file.write(json.dumps([time.time(), m.type, m.channel, getattr(m, 'note', None)])+'\n'); self.file.flush()
    def close(self): self.file.close()

class Input:
    "Plays (seconds, note) pairs, each for a tenth of a second"
    def __init__(self, name, callback, **_):
        self.name = name
        def play():
            start = time.time()
            for at,note in json.loads(os.environ['FAKE_MIDI_PLAYED']):
                for more,kind in ((0, 'note_on'), (.1, 'note_off')):
                    time.sleep(max(0, start+at+more-time.time()))
                    callback(Message(kind, note=note))
        threading.Thread(target=play, daemon=True).start()
    def close(self): pass
