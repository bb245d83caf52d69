"Ask a MeloFormer server (`meloformer serve`) for music. Needs Python and nothing else: copy this file"
import base64, json
from urllib.error import HTTPError
from urllib.request import Request, urlopen

class Refused(Exception):
    "What the server said, and its status"
    def __init__(self, status, words): super().__init__(words); self.status = status

class Server:
    "Each method takes the fields of `meloformer generate`, files as bytes, and gives MIDI files as bytes"
    def __init__(self, url='http://127.0.0.1:8642', token=None, timeout=600):
        self.url,self.timeout = url.rstrip('/'),timeout
        self.headers = {'Authorization': f'Bearer {token}'} if token else {}

    def ask(self, path, fields=None, method=None):
        "The open response to a request"
        data = None if fields is None else json.dumps(fields, default=lambda file: base64.b64encode(file).decode()).encode()
        head = self.headers | ({'Content-Type': 'application/json'} if data else {})
        try: return urlopen(Request(self.url+path, data, head, method=method), timeout=self.timeout)
        except HTTPError as e:
            said = json.load(e)['detail']
            raise Refused(e.code, said if isinstance(said, str) else '; '.join(o['msg'] for o in said)) from None

    def write(self, verb, midi=None, **fields):
        "A list of MIDI files, one for each of `takes`"
        if midi is not None: fields['midi'] = midi
        with self.ask('/v1/'+verb, fields) as r: return [base64.b64decode(o['midi']) for o in json.load(r)['takes']]

    def generate(self, midi=None, **fields): return self.write('generate', midi, **fields)
    def go_on(self, midi, bars, **fields): return self.write('continue', midi, bars=bars, **fields)
    def infill(self, midi, fill, **fields): return self.write('infill', midi, fill=fill, **fields)
    def text(self, text, **fields): return self.write('text', text=text, **fields)

    def transcribe(self, sound, **fields):
        "A recording (the bytes of a wav, flac, mp3 or ogg file) as a MIDI file"
        with self.ask('/v1/transcribe', fields|dict(sound=sound)) as r: return base64.b64decode(json.load(r)['midi'])

    def stream(self, verb='generate', midi=None, **fields):
        "Yields (kind, what) while it is written; to stop reading cancels"
        if midi is not None: fields['midi'] = midi
        with self.ask('/v1/'+verb, fields|dict(stream=True)) as r:
            for line in map(bytes.decode, r):
                if line.startswith('event: '): kind = line[7:].strip()
                if line.startswith('data: '): yield kind,json.loads(line[6:])

    def cancel(self, id): self.ask('/v1/jobs/'+id, method='DELETE').close()
    def health(self): return json.load(self.ask('/health'))
