"Ask `meloformer osc` for music. Needs python-osc (`pip install python-osc`): copy this file"
import socket
from pythonosc.osc_message import OscMessage
from pythonosc.osc_message_builder import OscMessageBuilder

class Refused(Exception): "What the server said"

class Osc:
    "One who speaks OSC with the server; `options` are the fields of `meloformer generate`"
    def __init__(self, port=7400, host='127.0.0.1', timeout=600):
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1<<20)
        self.socket.connect((host, port))
        self.socket.settimeout(timeout)

    def send(self, address, *args):
        m = OscMessageBuilder(address)
        for o in args: m.add_arg(o)
        self.socket.send(m.build().dgram)

    def hear(self):
        "The next message: address and arguments"
        m = OscMessage(self.socket.recv(1<<16))
        if m.address=='/error': raise Refused(m.params[0])
        return m.address,m.params

    def send_midi(self, id, data, size=8000):
        n = -(-len(data)//size)
        for i in range(n): self.send('/midi', id, i+1, n, data[i*size:(i+1)*size])

    def events(self, id, mask=(), answer='midi', **options):
        "Yields (address, arguments) until the answer is there; what was lost on the way is asked for again"
        if mask: self.send('/mask', id, *mask)
        for k,v in options.items(): self.send('/option', id, k, v)
        self.send('/answer', id, answer)
        self.send('/generate', id)
        came = 0
        while True:
            address,args = self.hear()
            yield address,args
            if address=='/cancelled' or address=='/done' and came>=args[2]: return
            if address=='/done': self.send('/again', id)
            came = 0 if address in ('/writing','/done') else came+(address in ('/track','/meter','/tempo','/bar','/midi'))

    def write(self, midi=None, id=1, **asked):
        "A list of MIDI files, one for each of `takes`"
        if midi: self.send_midi(id, midi)
        parts = {(a[1], a[2]): a[4] for address,a in self.events(id, **asked) if address=='/midi'}
        return [b''.join(parts[t,i] for t,i in sorted(parts) if t==take) for take in sorted({t for t,_ in parts})]
